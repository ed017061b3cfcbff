"""ER-ACE: each step against its equation, and where it is not defined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.objectives.classify import Classify
from insitu.schema import Schema
from insitu.strategies.er_ace import ERACE
from learning import CLASSES, OBJECTIVES, make_memory, make_objective
from stepwise import Parts, Step, assert_descends, cross_entropies, steps


def present(step: Step) -> list[int]:
    return sorted({int(label) for label in step.labels[: step.fresh]})


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("mean_over", ["parts", "all"])
def test_every_step_is_that_of_the_equation(weight: float, mean_over: str) -> None:
    def make(parts: Parts) -> ERACE:
        return ERACE(
            parts.memory,
            parts.objective,
            samples_per_step=5,
            replay_weight=weight,
            mean_over=mean_over,  # type: ignore[arg-type]
        )

    narrower = 0
    for step in steps(make, batches=8, rows=3):
        fresh = step.fresh
        narrower += len(present(step)) < CLASSES

        def loss(weights: Tensor, step: Step = step, fresh: int = fresh) -> Tensor:
            logits = step.inputs @ weights.T
            new = cross_entropies(logits[:fresh], step.labels[:fresh], present(step))
            if step.batch.replayed_rows == 0:
                return new.mean()
            old = cross_entropies(logits[fresh:], step.labels[fresh:])
            if mean_over == "all":
                return (new.sum() + weight * old.sum()) / step.batch.rows
            return new.mean() + weight * old.mean()

        assert_descends(step, loss)
    assert narrower > 2, "where all classes are present it would be plain replay"


def test_classes_that_never_appeared_may_compete() -> None:
    def make(parts: Parts) -> ERACE:
        return ERACE(
            parts.memory, parts.objective, samples_per_step=5, competitors="present_and_unseen"
        )

    seen: set[int] = set()
    differs = 0
    for step in steps(make, batches=8, rows=3):
        fresh = step.fresh
        competing = sorted({*present(step), *(set(range(CLASSES)) - seen)})
        differs += competing != present(step)

        def loss(
            weights: Tensor,
            step: Step = step,
            fresh: int = fresh,
            competing: list[int] = competing,
        ) -> Tensor:
            logits = step.inputs @ weights.T
            new = cross_entropies(logits[:fresh], step.labels[:fresh], competing).mean()
            if step.batch.replayed_rows == 0:
                return new
            return new + cross_entropies(logits[fresh:], step.labels[fresh:]).mean()

        assert_descends(step, loss)
        seen |= set(present(step))
    assert differs


def test_logits_of_absent_classes_get_no_gradient_from_fresh_rows() -> None:
    strategy = ERACE(make_memory(), make_objective("classify"))
    batch = Batch.of({"x": torch.zeros(3, 6), "y": torch.tensor([0, 2, 2])})
    outputs = torch.randn(3, CLASSES, requires_grad=True)
    losses = strategy.losses(batch, outputs, torch.zeros(3))
    losses.mean().backward()
    assert outputs.grad is not None
    assert outputs.grad[:, [1, 3]].abs().max() == 0
    assert outputs.grad[:, [0, 2]].abs().min() > 0


def test_rows_without_label_bring_no_class() -> None:
    objective = Classify(OBJECTIVES["classify"][0], classes=CLASSES, unlabelled=True)
    strategy = ERACE(make_memory(), objective)
    batch = Batch.of({"x": torch.zeros(3, 6), "y": torch.tensor([-1, 1, 0])})
    outputs = torch.randn(3, CLASSES, requires_grad=True)
    strategy.losses(batch, outputs, torch.zeros(3)).mean().backward()
    assert outputs.grad is not None
    assert outputs.grad[0].abs().max() == 0
    assert outputs.grad[:, 2:].abs().max() == 0
    assert outputs.grad[1:, :2].abs().min() > 0


def test_it_is_refused_without_logits_of_classes() -> None:
    with pytest.raises(OperatorError, match=r"er_ace.*Regress.*one logit a class"):
        ERACE(make_memory(), make_objective("regress"))


def test_it_is_refused_where_labels_are_smoothed() -> None:
    schema = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})
    with pytest.raises(OperatorError, match=r"er_ace.*smooths.*label_smoothing 0"):
        ERACE(make_memory(), Classify(schema, classes=3, label_smoothing=0.1))
