"""Steps that go wrong in a real service: a loss that is not finite, a model that raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bad_input import assert_balanced, assert_lives, config, honest, log_says, samples
from daemon import Daemon, wait_for

MODEL = """
import torch

class Moody(torch.nn.Linear):
    def forward(self, x):
        raise ValueError("no forward today")

def moody(input_shape, output_shape):
    return Moody(input_shape[0], output_shape[0])
"""
Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    """Starts a service that lets NaN through, with changes to its configuration."""

    def started(**changes: Any) -> Daemon:
        stream = {"non_finite": "accept"}
        daemon = Daemon(tmp_path, config(tmp_path, stream=stream, **changes))
        request.addfinalizer(daemon.kill)
        return daemon.start(environment={"PYTHONPATH": str(tmp_path)})

    return started


def push_nan(daemon: Daemon, rows: int = 8) -> None:
    """One batch of which one value is not a number."""
    bad = samples(rows)
    bad["x"][0, 0] = np.nan
    with honest(daemon, "noisy", linger_seconds=2.0) as producer:
        producer.push(bad)


def test_skip_leaves_the_step_out_and_goes_on(start: Start) -> None:
    with start(trainer={"non_finite": "skip"}) as daemon:
        push_nan(daemon)
        daemon.wait_metric("insitu_skipped_steps_total", 1)
        daemon.wait_metric("insitu_alerts_total", 1, kind="step_skipped")
        assert log_says(daemon, "the loss or a gradient is not finite")
        assert_lives(daemon)
        assert daemon.metric("insitu_skipped_steps_total") == 1
        assert daemon.stop() == 0


def test_skipped_steps_do_not_fill_the_log(start: Start) -> None:
    with start(trainer={"non_finite": "skip"}) as daemon:
        with honest(daemon, "noisy", linger_seconds=2.0) as producer:
            bad = samples(80)
            bad["x"][:, 0] = np.nan
            producer.push(bad)
        daemon.wait_metric("insitu_alerts_total", 10, kind="step_skipped")
        lines = [line for line in daemon.log_lines() if "step_skipped" in line["message"]]
        assert len(lines) == 1
        assert daemon.stop() == 0


def push_only_nan(daemon: Daemon, rows: int) -> None:
    bad = samples(rows)
    bad["x"][:, 0] = np.nan
    with honest(daemon, "noisy", linger_seconds=2.0) as producer:
        producer.push(bad)


def test_weights_that_have_diverged_go_back_and_their_state_is_not_kept(
    start: Start, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    saving = {"directory": str(root), "every_steps": 1, "every_seconds": None, "keep": 2}
    with start(
        trainer={"non_finite": "skip", "most_skipped_steps": 5}, checkpoint=saving
    ) as daemon:
        assert_lives(daemon)
        kept = {path.name for path in root.iterdir()}
        push_only_nan(daemon, 32)  # four steps: bad luck, no divergence
        daemon.wait_metric("insitu_skipped_steps_total", 4)
        assert {path.name for path in root.iterdir()} == kept
        push_only_nan(daemon, 8)
        daemon.wait_metric("insitu_rollbacks_total", 1)
        assert daemon.metric("insitu_alerts_total", kind="diverged") == 1
        assert_lives(daemon)
        assert daemon.stop() == 0


def test_divergence_without_a_checkpoint_to_go_back_to_ends_with_exit_code_5(start: Start) -> None:
    with start(trainer={"non_finite": "skip", "most_skipped_steps": 5}) as daemon:
        push_only_nan(daemon, 64)
        assert daemon.wait() == 5
        assert log_says(daemon, "the weights diverged")


def test_rollback_loads_the_last_good_checkpoint_and_goes_on(start: Start, tmp_path: Path) -> None:
    directory = {"directory": str(tmp_path / "checkpoints"), "every_steps": 1}
    with start(trainer={"non_finite": "rollback"}, checkpoint=directory) as daemon:
        assert_lives(daemon)
        push_nan(daemon)
        daemon.wait_metric("insitu_rollbacks_total", 1)
        daemon.wait_metric("insitu_alerts_total", 1, kind="non_finite_loss")
        assert log_says(daemon, "rolled back to")
        assert_lives(daemon)
        assert_balanced(daemon)
        assert daemon.stop() == 0


def test_a_rollback_that_does_not_help_ends_with_exit_code_5(start: Start, tmp_path: Path) -> None:
    directory = {"directory": str(tmp_path / "checkpoints"), "every_seconds": None}
    with start(trainer={"non_finite": "rollback"}, checkpoint=directory) as daemon:
        for rolled_back in (1, 2, 3):
            push_nan(daemon)
            daemon.wait_metric("insitu_rollbacks_total", rolled_back)
        push_nan(daemon)
        assert daemon.wait() == 5
        assert log_says(daemon, "the loss is not finite")


def test_stop_ends_with_exit_code_5_and_loses_nothing_that_is_pending(
    start: Start, tmp_path: Path
) -> None:
    """What was accepted behind the bad batch is in the last checkpoint, and trained by the next."""
    directory = {"directory": str(tmp_path / "checkpoints")}
    changes: dict[str, Any] = {
        "trainer": {"non_finite": "stop"},
        "checkpoint": directory,
        "pace": {"kind": "fixed"},
    }
    bad = samples(32)
    bad["x"][0, 0] = np.nan
    with start(**changes) as daemon, honest(daemon, "noisy", linger_seconds=2.0) as producer:
        producer.push(bad)  # four steps; the first of them is bad
        assert daemon.wait() == 5
        (line,) = [
            line for line in daemon.log_lines() if "step 1: the loss is nan" in line["message"]
        ][:1]
        for text in ("trainer.non_finite is 'stop'", "lower the learning rate", "operator's fault"):
            assert text in line["message"]
    with daemon.start("--resume"):
        daemon.wait_metric("insitu_trained_samples_total", 24, source="fresh")
        assert daemon.metric("insitu_lost_samples_total") == 0
        assert daemon.stop() == 0


def test_a_model_that_raises_in_its_first_step_ends_with_exit_code_7(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "my_moody.py").write_text(MODEL)
    with start(model={"name": "my_moody:moody", "options": {}}) as daemon:
        with honest(daemon, linger_seconds=1.0) as producer:
            producer.push(samples(8))
            assert daemon.wait() == 7
        assert log_says(daemon, "no forward today")
        failed = [line for line in daemon.log_lines() if "exception" in line]
        assert any("my_moody.py" in line["exception"] for line in failed)
        wait_for(lambda: log_says(daemon, "stopped with exit code 7"), "the last line")
