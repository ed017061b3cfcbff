"""A drain trains what is pending, whatever comes in between."""

from __future__ import annotations

import threading
from pathlib import Path

import yaml

from insitu.config import load_config
from insitu.stream.stamp import Stamp
from insitu_service.learning.learning import Learning, build_learning
from insitu_service.supervision.beat import Beat
from served import SCHEMA, config


def a_learning(directory: Path) -> Learning:
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(config(directory)))
    return build_learning(load_config(path, (), {}))


def test_a_drain_ends_though_the_stream_was_opened_again(tmp_path: Path) -> None:
    """A mark in the backlog of the log opens it, or a producer that came at the last moment."""
    learning = a_learning(tmp_path)
    buffer = learning.buffer
    reservation = buffer.reserve(3)  # less than a training batch
    assert reservation is not None
    reservation.write(0, bytes(3 * SCHEMA.row_bytes))
    buffer.commit(reservation, Stamp("rank-0", 1, 1, None, 0))
    marks = ["reopen"]

    def backlog_samples() -> int:
        if buffer.is_ended and marks:
            marks.pop()
            buffer.reopen()
        return 0

    learner = learning.learner(lambda _: None, Beat(60.0), backlog_samples=backlog_samples)
    thread = threading.Thread(target=learner.run)
    thread.start()
    try:
        drained = learning.commands.post("drain").result(timeout=20)
        assert drained["pending_samples"] == 0
        assert not marks
    finally:
        learning.commands.post("stop")
        thread.join()
        assert learning.writer is not None
        learning.writer.close()
    assert learning.trainer.steps == 1
