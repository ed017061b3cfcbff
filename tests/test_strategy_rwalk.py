"""Riemannian walk against its sums, written from the paper, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from insitu.strategies.rwalk import RiemannianWalk
from regularisers import ByHand, assert_close, random_gradients

STRENGTH, DAMPING, RATE, DECAY, INTERVAL = 0.5, 0.02, 0.1, 0.8, 4


def run_of() -> ByHand:
    return ByHand(
        lambda criterion, optimizer: RiemannianWalk(
            criterion,
            optimizer,
            strength=STRENGTH,
            damping=DAMPING,
            fisher_decay=DECAY,
            interval_steps=INTERVAL,
            apply="gradient",
        ),
        learning_rate=RATE,
    )


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


class Reference:
    """The paper's sums over all weights as one vector."""

    def __init__(self, run: ByHand) -> None:
        self.w = flat(run.weights())
        self.anchor, self.start = self.w, self.w
        self.importance, self.path, self.score = (torch.zeros_like(self.w) for _ in range(3))
        self.running: Tensor | None = None
        self.former: Tensor | None = None
        self.updates = 0

    def step(self, g: Tensor) -> None:
        old = self.w
        self.w = old - RATE * (g + STRENGTH * self.importance * (old - self.anchor))
        self.path = self.path - g * (self.w - old)
        squares = g**2
        self.running = (
            squares if self.running is None else DECAY * self.running + (1 - DECAY) * squares
        )
        self.updates += 1
        if self.updates == INTERVAL:
            self.close()

    def close(self) -> None:
        assert self.running is not None
        distance = 0.5 * self.running * (self.w - self.start) ** 2
        self.score = self.score + self.path / (distance + DAMPING)
        self.path, self.start, self.updates = torch.zeros_like(self.w), self.w, 0

    def end_task(self) -> None:
        if self.updates:
            self.close()
        assert self.running is not None
        score = self.score.clamp(min=0)
        score = score / score.max()
        score = score if self.former is None else (self.former + score) / 2
        self.importance = self.running / self.running.max() + score
        self.former, self.anchor, self.score = score, self.w, torch.zeros_like(self.w)


@pytest.mark.parametrize("updates", [8, 11], ids=["whole intervals", "an open interval"])
def test_it_is_the_sums_of_the_paper(updates: int) -> None:
    run = run_of()
    reference = Reference(run)
    for task in range(3):
        for gradients in random_gradients(updates, seed=task):
            run.step(gradients, task=task)
            reference.step(flat(gradients))
        run.strategy.end_task(task)
        reference.end_task()
        assert_close([flat(run.weights())], [reference.w])
        assert_close([flat(list(run.strategy.importance.values()))], [reference.importance])
    assert 1.0 < reference.importance.max().item() <= 2.0


def test_weights_that_never_had_a_gradient_stay_free() -> None:
    run = run_of()
    for _ in range(5):
        run.step([torch.zeros(2, 3).double(), torch.zeros(2).double()])
    run.strategy.end_task(0)
    assert all(torch.equal(f, torch.zeros_like(f)) for f in run.strategy.importance.values())


def test_a_task_without_samples_since_its_end_changes_nothing() -> None:
    run = run_of()
    for gradients in random_gradients(3):
        run.step(gradients, task=4)
    run.strategy.end_task(0)
    assert run.strategy.consolidations == 0
    run.strategy.end_task(4)
    run.strategy.end_task(4)
    assert run.strategy.consolidations == 1
