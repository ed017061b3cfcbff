"""What the demo prints: progress while it runs and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from insitu_service.demo.outcome import Outcome
from insitu_service.demo.scenario import Scenario
from insitu_service.status import number

_PLAIN_SECONDS = 5.0
Status = Mapping[str, Any]


class ProgressDisplay:
    """A live table on a terminal; elsewhere a line a service every few seconds."""

    def __init__(self, console: Console, scenario: Scenario) -> None:
        self._console = console
        self._scenario = scenario
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._printed_at = float("-inf")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, statuses: Mapping[str, Status]) -> None:
        """Show the state of every variant's service."""
        if self._live is not None:
            self._live.update(_progress_table(self._scenario, statuses), refresh=True)
        elif time.monotonic() - self._printed_at >= _PLAIN_SECONDS:
            self._printed_at = time.monotonic()
            for variant, status in statuses.items():
                figures = _figures(self._scenario, status)
                words = ", ".join(f"{name} {value}" for name, value in figures.items())
                self._console.print(f"  {variant}: {words}", highlight=False)


def _figures(scenario: Scenario, status: Status) -> dict[str, str]:
    """The few figures of a line, by their headings."""
    trained = status.get("stream", {}).get("trained_samples", 0)
    tasks = status.get("tasks") or [{"name": "-"}]
    trainer = status.get("trainer", {})
    return {
        "samples": f"{number(trained)} of {number(scenario.samples)}",
        scenario.task_word: str(tasks[-1]["name"]),
        "step": number(trainer.get("step", 0)),
        "loss": number(trainer.get("loss")),
    }


def _progress_table(scenario: Scenario, statuses: Mapping[str, Status]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "", "samples", scenario.task_word, "step", "loss"):
        table.add_column(heading, no_wrap=True)
    for variant, status in statuses.items():
        trained = status.get("stream", {}).get("trained_samples", 0)
        bar = ProgressBar(total=scenario.samples, completed=trained, width=22)
        table.add_row(variant, bar, *_figures(scenario, status).values())
    return table


def outcome_table(scenario: Scenario, outcomes: Mapping[str, Outcome]) -> Table:
    """Per task and variant: right after learning, at the end, and what was forgotten."""
    first = next(iter(outcomes.values()))
    better = "higher" if first.higher_is_better else "lower"
    metric = first.metric.replace("_", " ")
    title = f"{scenario.name}: {metric} on held-out samples, {better} is better"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column(f"\n{scenario.task_word}", no_wrap=True)
    for variant in outcomes:
        table.add_column(f"{variant}:\nlearned", justify="right", no_wrap=True)
        table.add_column("\nat end", justify="right", no_wrap=True)
        table.add_column("\nlost", justify="right", no_wrap=True)
    for index, task in enumerate(first.tasks):
        cells: list[str] = []
        for outcome in outcomes.values():
            row = outcome.tasks[index]
            cells += _cells((row.right_after, row.at_the_end, outcome.forgetting(row)))
        table.add_row(task.task, *cells, end_section=index == len(first.tasks) - 1)
    means: list[str] = []
    for outcome in outcomes.values():
        means += ["", *_cells((outcome.mean_at_the_end(), outcome.mean_forgetting()))]
    table.add_row("mean", *means)
    return table


def _cells(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]
