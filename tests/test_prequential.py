"""Prequential figures: against sums over all rows, with tasks mixed, and across a restore."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.batch import Batch, Column
from insitu.evaluation import Prequential
from insitu.evaluation.running_mean import OTHER_TASKS
from insitu.report import StepReport
from learning import Setup, assert_same, copied, make_batch


class Step(NamedTuple):
    """A step's fresh rows: the task, loss and hit of each, and whether it was skipped."""

    tasks: list[int]
    losses: list[float]
    hits: list[int]
    skipped: bool


@st.composite
def steps(draw: st.DrawFn) -> Step:
    rows = draw(st.integers(1, 5))
    tasks = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    if draw(st.booleans()):
        tasks = [tasks[0]] * rows
    losses = draw(st.lists(st.floats(0, 10, width=32), min_size=rows, max_size=rows))
    hits = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    return Step(tasks, losses, hits, draw(st.sampled_from((False, False, False, True))))


def count(prequential: Prequential, step: Step, number: int = 1) -> None:
    """As a trainer would report it, with two replayed rows behind the fresh ones."""
    batch = Batch.of({"x": torch.zeros(len(step.tasks), 1)})
    batch.provenance[:, Column.TASK] = torch.tensor(step.tasks)
    hits = torch.tensor(step.hits, dtype=torch.float32)

    def score(rows: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"accuracy": (hits if rows is None else hits[rows]).mean()}

    losses = torch.tensor([*step.losses, 1e6, 1e6])
    report = StepReport(
        number, len(step.tasks), 2, losses, {}, score, None, 0.1, skipped=step.skipped
    )
    prequential.count(batch, report)


def rows_of(history: Sequence[Step]) -> Iterator[tuple[int, int, float, int]]:
    """(step, task, loss, hit) of every row that counts."""
    made = [step for step in history if not step.skipped]
    for number, step in enumerate(made, 1):
        for task, loss, hit in zip(step.tasks, step.losses, step.hits, strict=True):
            yield number, task, loss, hit


def weighted(values: Sequence[tuple[float, float]]) -> float:
    """Mean of (weight, value)."""
    total = math.fsum(weight for weight, _ in values)
    return math.fsum(w * v for w, v in values) / total if total else math.nan


@given(st.lists(steps(), max_size=30), st.integers(1, 7))
def test_figures_are_those_of_the_formulas(history: list[Step], window_steps: int) -> None:
    prequential = Prequential("accuracy", window_steps=window_steps, fading_factor=0.8)
    for number, step in enumerate(history, 1):
        count(prequential, step, number)
    rows = list(rows_of(history))
    last = rows[-1][0] if rows else 0
    recent = [row for row in rows if row[0] > last - window_steps]
    faded = [(0.8 ** (last - step), loss, hit) for step, _, loss, hit in rows]

    for found, wanted in (
        (prequential.mean(), rows),
        (prequential.window(), recent),
    ):
        assert found.samples == len(wanted)
        assert found.loss == pytest.approx(weighted([(1, r[2]) for r in wanted]), nan_ok=True)
        assert found.score == pytest.approx(weighted([(1, r[3]) for r in wanted]), nan_ok=True)
    fading = prequential.fading()
    assert fading.loss == pytest.approx(weighted([(w, loss) for w, loss, _ in faded]), nan_ok=True)
    assert fading.score == pytest.approx(weighted([(w, hit) for w, _, hit in faded]), nan_ok=True)
    by_task = prequential.by_task()
    assert list(by_task) == list(dict.fromkeys(task for _, task, _, _ in rows))
    for task, figures in by_task.items():
        own = [row for row in rows if row[1] == task]
        assert figures.samples == len(own)
        assert figures.loss == pytest.approx(weighted([(1, row[2]) for row in own]))
        assert figures.score == pytest.approx(weighted([(1, row[3]) for row in own]))


@given(st.lists(steps(), min_size=1, max_size=30), st.integers(0, 30), st.integers(1, 9))
def test_a_saved_and_restored_run_equals_one_that_was_not(
    history: list[Step], cut: int, window_steps: int
) -> None:
    whole = Prequential("accuracy", window_steps=window_steps)
    parts = Prequential("accuracy", window_steps=window_steps)
    for number, step in enumerate(history, 1):
        if number - 1 == cut:
            saved = copied(parts.state_dict())
            parts = Prequential("accuracy", window_steps=window_steps)
            parts.load_state_dict(saved)
        count(whole, step, number)
        count(parts, step, number)
    assert_same(copied(parts.state_dict()), copied(whole.state_dict()))


def test_tasks_beyond_the_bound_go_under_one() -> None:
    prequential = Prequential("loss", window_steps=3, most_tasks=2)
    for task in range(20):
        count(prequential, Step([task], [float(task)], [0], False))
    by_task = prequential.by_task()
    assert list(by_task) == [0, 1, OTHER_TASKS]
    assert by_task[OTHER_TASKS].samples == 18
    assert by_task[OTHER_TASKS].loss == pytest.approx(sum(range(2, 20)) / 18)
    assert prequential.tasks == (0, 1)


def test_scores_of_every_so_many_steps_and_all_losses() -> None:
    prequential = Prequential("accuracy", score_every_steps=3)
    for number in range(7):
        count(prequential, Step([0], [1.0], [number % 3 == 0], False))
    assert prequential.mean().score == 1.0  # steps 1, 4 and 7, and no others
    assert prequential.mean().samples == 7


def test_what_waits_is_bounded() -> None:
    prequential = Prequential("accuracy", window_steps=10)
    sizes = []
    for _ in range(95):
        count(prequential, Step([0, 1], [1.0, 2.0], [1, 0], False))
        state = prequential.state_dict()
        sizes.append(len(state["waiting_steps"]) + len(state["scored"]))
        assert len(state["losses"]["recent_steps"]) <= 10
    assert max(sizes) < 30


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(["classify", "regress", "reconstruct"]))
def test_a_trainer_s_reports_are_counted_before_they_are_learned(objective: str) -> None:
    """Against `evaluate` on the same rows just before each step, with the statistics of then."""
    trainer = Setup(objective, normalise=False).trainer()
    score, _ = trainer.objective.headline
    prequential, expected = Prequential(score), []
    for number in range(8):
        batch = make_batch(objective, 9, seed=number)
        expected.append(trainer.evaluate(batch).figures())
        prequential.count(batch, trainer.step(batch))
    found = prequential.mean()
    assert found.loss == pytest.approx(sum(each["loss"] for each in expected) / 8, rel=1e-5)
    assert found.score == pytest.approx(sum(each[score] for each in expected) / 8, rel=1e-5)


def test_mixed_tasks_have_the_scores_of_their_own_rows() -> None:
    trainer = Setup("classify", normalise=False).trainer()
    batch = make_batch("classify", 12, seed=0)
    batch.provenance[:, Column.TASK] = torch.arange(12) % 2
    expected = [
        trainer.evaluate(batch.select(torch.arange(task, 12, 2), 0)).figures()["accuracy"]
        for task in (0, 1)
    ]
    prequential = Prequential("accuracy")
    prequential.count(batch, trainer.step(batch))
    assert [prequential.by_task()[task].score for task in (0, 1)] == pytest.approx(expected)


def test_readers_of_other_threads_see_whole_steps() -> None:
    """Every step has loss and score 1 for task 0 and 3 for task 1, so every mean is 2."""
    prequential, wrong, done = Prequential("accuracy", window_steps=5), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            found = prequential.mean()
            if found.samples and found.loss != 2.0:
                wrong.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        count(prequential, Step([0, 1], [1.0, 3.0], [1, 0], False))
    done.set()
    reader.join()
    assert wrong == []
