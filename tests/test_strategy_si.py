"""Synaptic intelligence against its sums, written from the paper, in float64."""

from __future__ import annotations

import pytest
import torch

from insitu.strategies.si import SynapticIntelligence
from regularisers import ByHand, assert_close, observation, random_gradients

STRENGTH, DAMPING, RATE = 0.5, 0.02, 0.1


def run_of(apply: str = "gradient") -> ByHand:
    return ByHand(
        lambda criterion, optimizer: SynapticIntelligence(
            criterion, optimizer, strength=STRENGTH, damping=DAMPING, apply=apply  # type: ignore[arg-type]
        ),
        learning_rate=RATE,
    )  # fmt: skip


class Reference:
    """The paper's sums, with every quantity written out."""

    def __init__(self, run: ByHand, proximal: bool) -> None:
        self.weights = run.weights()
        self.anchor = run.weights()
        self.proximal = proximal
        self.path = [torch.zeros_like(w) for w in self.weights]
        self.importance = [torch.zeros_like(w) for w in self.weights]

    def step(self, gradients: list[torch.Tensor]) -> None:
        for i, g in enumerate(gradients):
            old, f, a = self.weights[i], self.importance[i], self.anchor[i]
            if self.proximal:
                strength = RATE * STRENGTH
                new = (old - RATE * g + strength * f * a) / (1 + strength * f)
            else:
                new = old - RATE * (g + STRENGTH * f * (old - a))
            self.path[i] = self.path[i] - g * (new - old)
            self.weights[i] = new

    def end_task(self) -> None:
        for i, path in enumerate(self.path):
            way = self.weights[i] - self.anchor[i]
            self.importance[i] = self.importance[i] + path.clamp(min=0) / (way**2 + DAMPING)
        self.anchor = list(self.weights)
        self.path = [torch.zeros_like(w) for w in self.weights]


@pytest.mark.parametrize("apply", ["gradient", "proximal"])
def test_it_is_the_sums_of_the_paper(apply: str) -> None:
    run = run_of(apply)
    reference = Reference(run, apply == "proximal")
    for task in range(3):
        for gradients in random_gradients(12, seed=task):
            run.step(gradients, task=task)
            reference.step(gradients)
        run.strategy.end_task(task)
        reference.end_task()
        assert_close(run.weights(), reference.weights)
        assert_close(run.strategy.importance, reference.importance)
        assert_close(run.strategy.anchor, reference.anchor)
    assert run.strategy.consolidations == 3
    assert max(f.max().item() for f in reference.importance) > 0.1


def test_the_path_is_that_of_the_gradient_before_it_is_clipped() -> None:
    run = run_of()
    before = run.weights()
    (gradients,) = random_gradients(1)
    for parameter, gradient in zip(run.parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    run.strategy.adjust_gradients()
    for parameter in run.parameters:
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)
    run.optimizer.step()
    run.strategy.observe(observation(0))
    moved = [b - w for b, w in zip(before, run.weights(), strict=True)]
    assert_close(
        run.strategy.state_dict()["path"],
        [g * m for g, m in zip(gradients, moved, strict=True)],
    )


def test_a_skipped_update_is_not_on_the_path() -> None:
    run, other = run_of(), run_of()
    first, skipped, last = random_gradients(3)
    for gradients in (first, last):
        other.step(gradients)
    run.step(first)
    run.step(skipped, learned=False)
    run.step(last)
    assert_close(run.strategy.state_dict()["path"], other.strategy.state_dict()["path"].values())


def test_a_task_without_samples_since_its_end_changes_nothing() -> None:
    run = run_of()
    for gradients in random_gradients(3):
        run.step(gradients, task=4)
    run.strategy.end_task(0)
    assert run.strategy.consolidations == 0
    run.strategy.end_task(4)
    run.strategy.end_task(4)
    assert run.strategy.consolidations == 1


def test_tasks_side_by_side_share_the_path() -> None:
    run = run_of()
    for number, gradients in enumerate(random_gradients(6)):
        run.step(gradients, task=number % 2)
    run.strategy.end_task(0)
    first = [f.clone() for f in run.strategy.importance.values()]
    run.strategy.end_task(1)
    assert run.strategy.consolidations == 2
    assert_close(run.strategy.importance, first)
