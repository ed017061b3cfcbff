"""One configuration trained on the stream of a log, by the parts of the service without sockets.

The same draws, steps, boundaries and evaluations as in the service, from the order in the log: at
the fixed pace the weights equal, bit by bit, those of the service that wrote it, however often
that was killed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from insitu.config import Config
from insitu.errors import OperatorError
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.record import Record
from insitu.stream.log.walk import LogWalk
from insitu_service.learning.learner import Learner
from insitu_service.learning.learning import Learning, build_learning
from insitu_service.replay.player import Player
from insitu_service.replay.result import LossCurve, ReplayResult
from insitu_service.supervision.beat import Beat


def replay(
    name: str,
    config: Config,
    log: Path,
    output: Path,
    *,
    first: int = 0,
    last: int | None = None,
    speed: float | None = None,
) -> ReplayResult:
    """Train a configuration on a log; checkpoints go to a directory of their own in `output`.

    Args:
        first, last: records to play; all by default.
        speed: times the original pace; None: as fast as it learns.

    Raises:
        OperatorError: the log is of another schema, or damaged, or the directory is in use.
    """
    disk = FileSystemDisk(log, writable=False)
    try:
        walk = LogWalk(disk)
        _check_schema(config, walk)
        learning = build_learning(_adapted(config, output / name))
        learning.take_probe_files()
        began = time.monotonic()
        curve = LossCurve()
        learner = _run(learning, _part(walk, first, last), curve, speed)
        _check(walk, learner)
        return _result(name, learning, curve, time.monotonic() - began, output / name)
    finally:
        disk.close()


def _adapted(config: Config, directory: Path) -> Config:
    """Without log, hooks and drops, and with checkpoints of its own."""
    if directory.exists() and any(directory.iterdir()):
        raise OperatorError(
            f"{directory} is there already",
            consequence="nothing was replayed",
            remedy="give another --output, or move it away",
        )
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = config.checkpoint.model_copy(update={"directory": directory, "on_stop": True})
    return config.model_copy(
        update={
            "checkpoint": checkpoint,
            "hooks": (),
            "log": config.log.model_copy(update={"directory": None}),
            "buffer": config.buffer.model_copy(update={"when_full": "block"}),
        }
    )


def _check_schema(config: Config, walk: LogWalk) -> None:
    difference = config.stream.as_schema().difference(walk.schema)
    if difference:
        raise OperatorError(
            f"the log is of another stream: {difference}",
            consequence="nothing was replayed",
            remedy="give stream.fields as they were when the log was written",
        )


def _part(walk: LogWalk, first: int, last: int | None) -> Iterator[Record]:
    for record in walk.records(from_record=first):
        if last is not None and record.number > last:
            return
        if record.number >= first:
            yield record


def _run(
    learning: Learning, records: Iterator[Record], curve: LossCurve, speed: float | None
) -> Learner:
    def end(stream_ended: bool) -> None:
        if not stream_ended:  # whoever was in a task has left it
            learning.commands.post("drain")
        learning.commands.post("stop")

    player = Player(records, learning.buffer, learning.inbox.take, end, speed=speed)
    learner = learning.learner(
        lambda text: None,
        Beat(math.inf),
        backlog_samples=lambda: 0,
        drain_seconds=math.inf,
        drain_on_stop=True,
        watchers=curve,
    )
    thread = threading.Thread(target=player.run, name="player", daemon=True)
    thread.start()
    try:
        learner.run()
    finally:
        player.stop()
        thread.join()
        if learning.writer is not None:
            learning.writer.close()
        learning.hooks.close()
        curve.close()
    if player.failure is not None:
        raise player.failure
    return learner


def _check(walk: LogWalk, learner: Learner) -> None:
    if learner.failure is not None:
        raise learner.failure
    if walk.flaws:
        raise OperatorError(
            f"the log is damaged: {'; '.join(walk.flaws)}",
            consequence="only what is before was replayed",
            remedy="insitu log verify tells more",
        )


def _result(
    name: str, learning: Learning, curve: LossCurve, seconds: float, directory: Path
) -> ReplayResult:
    mean = learning.examiner.prequential.mean()
    state: dict[str, Any] = learning.buffer.state_dict()
    return ReplayResult(
        name=name,
        steps=learning.trainer.steps,
        samples=learning.tally.fresh_samples,
        loss=mean.loss,
        score=mean.score,
        metric=learning.trainer.objective.headline[0],
        figures=learning.examiner.figures(),
        losses=tuple(curve.windows),
        seconds=seconds,
        checkpoint=str(directory),
        audit=state["audit"],
    )
