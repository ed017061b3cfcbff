"""The demo: its arithmetic, its configurations, its processes, and one whole run of the digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from daemon import wait_for
from insitu.config import load_config
from insitu.errors import InternalError, OperatorError
from insitu_producers.sources.digits import digit_pushes, load_digits
from insitu_service.demo.__main__ import main
from insitu_service.demo.display import outcome_table
from insitu_service.demo.figure import save_figure
from insitu_service.demo.interruption import Interruption
from insitu_service.demo.outcome import Outcome, read_outcome
from insitu_service.demo.scenario import DIGITS, SCENARIOS, VARIANTS, Scenario, Variant
from insitu_service.demo.service_process import ServiceProcess

ACCURACIES: dict[str, Any] = {
    "metric": "accuracy",
    "higher_is_better": True,
    "tasks": ["0-1", "2-3", "4-5"],
    "matrix": [[0.9, None, None], [0.5, 0.8, None], [0.2, 0.9, 0.7]],
}


def test_outcome_reads_the_diagonal_and_the_last_row() -> None:
    outcome = read_outcome(ACCURACIES)
    assert [task.right_after for task in outcome.tasks] == [0.9, 0.8, 0.7]
    assert [task.at_the_end for task in outcome.tasks] == [0.2, 0.9, 0.7]
    forgotten = [outcome.forgetting(task) for task in outcome.tasks]
    np.testing.assert_allclose(forgotten, [0.7, -0.1, 0.0], atol=1e-12)
    assert outcome.mean_at_the_end() == pytest.approx(0.6)
    assert outcome.mean_forgetting() == pytest.approx(0.3)
    assert outcome.curves["2-3"] == [None, 0.8, 0.9]


def test_a_growing_error_is_forgetting() -> None:
    outcome = read_outcome({**ACCURACIES, "metric": "rmse", "higher_is_better": False})
    assert outcome.forgetting(outcome.tasks[0]) == pytest.approx(-0.7)


def test_a_task_without_a_measurement_is_an_error() -> None:
    with pytest.raises(InternalError, match="2 tasks were measured at their end, 3"):
        read_outcome({**ACCURACIES, "matrix": ACCURACIES["matrix"][:2]})
    with pytest.raises(InternalError, match="'0-1' was not measured"):
        read_outcome({**ACCURACIES, "matrix": [[None] * 3] * 3})


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_configurations_are_valid_and_differ_in_strategies_only(
    scenario: Scenario, variant: Variant
) -> None:
    config = load_config(scenario.config_path, variant.overrides, {})
    full = load_config(scenario.config_path, (), {})
    names = [strategy.name for strategy in config.strategies]
    assert names == ([] if variant.overrides else ["replay", "online_ewc"])
    assert config.model_copy(update={"strategies": full.strategies}) == full


def test_the_progress_bar_ends_where_the_stream_ends() -> None:
    pushes = digit_pushes(load_digits(), seed=0)
    assert DIGITS.samples == sum(push.rows for push in pushes if not push.evaluate)


def test_table_and_picture_show_every_task(tmp_path: Path) -> None:
    worse = {**ACCURACIES, "matrix": [[0.9, None, None], [0.1, 0.8, None], [0.0, 0.0, 0.7]]}
    outcomes: dict[str, Outcome] = {
        "no replay": read_outcome(worse),
        "replay + EWC": read_outcome(ACCURACIES),
    }
    console = Console(width=80, record=True, file=(tmp_path / "table").open("w"))
    console.print(outcome_table(DIGITS, outcomes))
    text = console.export_text()
    console.file.close()
    for word in ("0-1", "2-3", "4-5", "0.200", "0.700", "replay + EWC:"):
        assert word in text
    assert "…" not in text, "the table must fit 80 columns"
    save_figure({DIGITS: outcomes}, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_service_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    broken = Variant("broken", ("trainer.batch_size=0",))
    with Interruption() as held, ServiceProcess(DIGITS, broken, tmp_path, held) as service:
        service.start()
        with pytest.raises(OperatorError, match="batch_size"):
            service.wait_ready()


def test_the_digits_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Real services, a real producer: replay and EWC keep what plain training forgets."""
    assert main(["--only", "digits", "--output", str(tmp_path), "--seed", "3"]) == 0
    text = capfd.readouterr().out
    assert "/metrics while it runs" in text
    assert (tmp_path / "demo.png").exists()
    results = json.loads((tmp_path / "results.json").read_text())["digits"]
    plain, kept = results["no replay"]["tasks"], results["replay + EWC"]["tasks"]
    assert [task["task"] for task in plain] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    # Both learn a task when it comes; only one still knows it at the end.
    assert min(task["right_after"] for task in plain + kept) > 0.6
    mean_plain = sum(task["at_the_end"] for task in plain) / 5
    mean_kept = sum(task["at_the_end"] for task in kept) / 5
    assert mean_plain < 0.4
    assert mean_kept > 0.8


def processes_below(directory: str) -> list[int]:
    """Ids of the running processes that mention a directory on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
        except OSError:  # it has ended meanwhile
            continue
        if directory.encode() in words:
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "insitu_service.demo", "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as demo:
        place = str(tmp_path / "insitu-")
        wait_for(lambda: len(processes_below(place)) >= 2, "the services")
        demo.send_signal(signal.SIGINT)
        output = demo.communicate(timeout=30)[0]
    assert demo.returncode == 130
    assert "interrupted" in output
    assert processes_below(place) == []
    assert list(tmp_path.glob("insitu-*")) == []
