"""The tally: scores that a reader computes while the learner goes on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from insitu.report import StepReport
from insitu_service.learning.tally import Tally


def report(step: int, score: Callable[[], float]) -> StepReport:
    return StepReport(
        step=step, fresh_samples=1, replayed_samples=0,
        losses=torch.tensor([0.5]), penalties={}, gradient_norm=None, learning_rate=0.1,
        score=lambda: {"accuracy": torch.tensor(score())},
    )  # fmt: skip


def test_scores_are_those_of_a_step_whose_rows_were_still_there() -> None:
    tally = Tally()
    assert tally.scores() == {}

    def overtaken() -> float:
        """The learner makes three steps while this one is scored."""
        for step in (2, 3, 4):
            tally.count(report(step, lambda: 0.75), 0.0, 0.0)
        return 0.0  # of the rows of another batch

    tally.count(report(1, overtaken), 0.0, 0.0)
    assert tally.scores() == {"accuracy": 0.75}


def test_a_reader_that_is_always_overtaken_keeps_the_scores_before() -> None:
    tally, steps = Tally(), iter(range(2, 1000, 2))
    tally.count(report(1, lambda: 0.5), 0.0, 0.0)
    assert tally.scores() == {"accuracy": 0.5}

    def overtaken() -> float:
        tally.count(report(next(steps), overtaken), 0.0, 0.0)
        return 0.0

    tally.count(report(next(steps), overtaken), 0.0, 0.0)
    assert tally.scores() == {"accuracy": 0.5}
