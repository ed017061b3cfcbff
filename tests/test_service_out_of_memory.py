"""Memory that runs out in a real service: smaller pieces, and when nothing fits, a clean stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemon import Daemon, wait_for
from insitu.checkpoint import list_checkpoints, read_checkpoint
from served import books_balance, config, producer, push, wait_log

MODEL = """
import os, pathlib, torch

class Large(torch.nn.Module):
    '''A graph for more rows than the file says does not fit.'''

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, outputs)

    def forward(self, x):
        fits = pathlib.Path(os.environ["FITS"])
        if torch.is_grad_enabled() and fits.exists() and len(x) > int(fits.read_text()):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.layer(x)

def large(input_shape, output_shape):
    return Large(input_shape[0], output_shape[0])
"""


def daemon_in(directory: Path, **sections: Any) -> Daemon:
    (directory / "large.py").write_text(MODEL)
    sections = {"model": {"name": "large:large", "options": {}}, **sections}
    return Daemon(directory, config(directory, **sections))


def start(daemon: Daemon, *arguments: str) -> Daemon:
    here = daemon.directory
    return daemon.start(
        *arguments, environment={"PYTHONPATH": str(here), "FITS": str(here / "fits")}
    )


def test_smaller_pieces_are_told_of_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "fits").write_text("3")
    with start(daemon_in(tmp_path)) as daemon, producer(daemon) as source:
        push(source, 0, 80)
        daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
        assert daemon.metric("insitu_out_of_memory_retries_total") == 2  # 8 rows, 4, 2
        assert daemon.metric("insitu_alerts_total", kind="out_of_memory") >= 1
        assert "updates are made in pieces of up to 2 rows" in daemon.log()
        assert daemon.metric("insitu_skipped_steps_total") == 0
        assert daemon.stop() == 0


LOG: dict[str, Any] = {"directory": "log", "segment_bytes": 16 << 20}


@pytest.mark.parametrize("log", [{}, LOG], ids=["without a log", "with a log"])
def test_when_nothing_fits_it_stops_with_a_checkpoint_and_loses_no_row(
    tmp_path: Path, log: dict[str, Any]
) -> None:
    """The rows that were drawn are trained first by the next run, and exactly once."""
    section = {**log, "directory": str(tmp_path / "log")} if log else {}
    with start(daemon_in(tmp_path, log=section)) as daemon:
        with producer(daemon) as source:
            push(source, 0, 60)
            daemon.wait_metric("insitu_trained_samples_total", 56, source="fresh")
            (tmp_path / "fits").write_text("0")
            push(source, 60, 80)
            assert daemon.wait() == 3
        line = wait_log(daemon, "there is not enough memory")
        assert "pieces of 1 row do not fit either" in line["message"]
        assert "lower trainer.batch_size" in line["message"]
    (newest,) = list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))
    state, _ = read_checkpoint(newest)
    assert state["trainer"]["steps"] == 7
    assert state["held_back"]["fields"]["x"].shape == (8, 6)

    (tmp_path / "fits").unlink()
    with start(daemon, "--resume"), producer(daemon, epoch=2) as source:
        source.wait_connected(20.0)
        assert source.last_cursor == 80  # all of them are in the checkpoint
        push(source, 80, 160)
        wait_for(lambda: daemon.status()["trainer"]["step"] == 20, "all 160 rows in 20 steps")
        assert books_balance(daemon)
        assert daemon.metric("insitu_lost_samples_total") == 0
        assert daemon.stop() == 0
    newest = list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]
    state, _ = read_checkpoint(newest)
    assert state["buffer"]["audit"]["drawn_rows"] == 160
    assert "held_back" not in state
