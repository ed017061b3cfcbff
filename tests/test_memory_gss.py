"""Gradient-based sample selection, against algorithm 2 of the paper in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from insitu.batch import Batch, Column
from insitu.criterion import Criterion
from insitu.memory.gss import GradientDiversity
from insitu.objectives.classify import Classify
from insitu.schema import Schema

INPUTS, CLASSES = 3, 4


def _criterion() -> Criterion:
    schema = Schema.of({"x": ("float32", (INPUTS,)), "y": ("int64", ())})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    return Criterion(model, Classify(schema, classes=CLASSES))


def _batch(rows: int, seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, INPUTS, generator=random)
    batch = Batch.of({"x": x, "y": torch.randint(CLASSES, (rows,), generator=random)})
    batch.provenance[:, Column.ROW] += 100 * seed
    return batch


def _direction(criterion: Criterion, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of one sample's loss in float64, of unit length, by plain autograd."""
    criterion.module.double()
    try:
        loss = nn.functional.cross_entropy(criterion.module(x.double()[None]), y[None])
        found = torch.autograd.grad(loss, list(criterion.module.parameters()))
    finally:
        criterion.module.float()
    flat = torch.cat([gradient.flatten() for gradient in found])
    return flat / flat.norm()


def _scores(criterion: Criterion, held: Batch, fresh: Batch) -> np.ndarray:
    """max_j cos(g, g_j) + 1 over all that is held, for every fresh sample."""
    remembered, new = (
        torch.stack([_direction(criterion, x, y) for x, y in zip(*fields, strict=True)])
        for fields in ((b.fields["x"], b.fields["y"]) for b in (held, fresh))
    )
    return ((new @ remembered.T).amax(1) + 1).numpy()


def _memory(capacity: int, criterion: Criterion, seed: int = 0) -> GradientDiversity:
    generator = torch.Generator().manual_seed(seed)
    return GradientDiversity(
        capacity, torch.device("cpu"), generator, criterion, reference_samples=100
    )


def _state_scores(memory: GradientDiversity) -> np.ndarray:
    scores = memory.state_dict()["policy"]["GradientDiversity"]["scores"]
    return scores.numpy().copy()


def test_scores_are_those_of_the_paper() -> None:
    criterion = _criterion()
    memory, first, second = _memory(20, criterion), _batch(6, 1), _batch(7, 2)
    memory.add(first)
    assert _state_scores(memory).tolist() == [1.0] * 6
    memory.add(second)
    expected = _scores(criterion, first, second)
    np.testing.assert_allclose(_state_scores(memory)[6:], expected, rtol=1e-5)


def test_who_is_replaced_is_drawn_by_the_scores() -> None:
    """Given the memory's own random numbers, the decisions are those of the algorithm."""
    criterion, replaced = _criterion(), 0
    for seed in range(6):
        memory, first, fresh = _memory(2, criterion, seed), _batch(2, 1), _batch(40, 2 + seed)
        memory.add(first)
        random = torch.Generator()
        random.set_state(memory.generator.get_state())
        torch.randperm(2, generator=random)  # which of the remembered are the reference: all
        draws = torch.rand(40, 2, dtype=torch.float64, generator=random)
        held, scores = first.column(Column.ROW).tolist(), [1.0] * 2
        for row, score in enumerate(_scores(criterion, first, fresh)):
            if score >= 1:
                continue
            share = np.cumsum(scores) / np.sum(scores)
            slot = int((share <= draws[row, 0].item()).sum())
            if draws[row, 1].item() < scores[slot] / (scores[slot] + score):
                held[slot] = int(fresh.column(Column.ROW)[row])
                scores[slot] = score
                replaced += 1
        memory.add(fresh)
        assert memory.provenance[:, Column.ROW].tolist() == held
        np.testing.assert_allclose(_state_scores(memory), scores, rtol=1e-5)
    assert replaced > 12


def test_what_teaches_the_same_is_passed_over() -> None:
    criterion = _criterion()
    memory, batch = _memory(4, criterion), _batch(4, 1)
    memory.add(batch)
    for _ in range(20):
        memory.add(batch.select(torch.tensor([0, 0, 0]), 3))
    assert sorted(memory.provenance[:, Column.ROW].tolist()) == [100, 101, 102, 103]


@pytest.mark.parametrize("flagged", [False, True])
def test_rows_may_share_a_gradient(flagged: bool) -> None:
    criterion = _criterion()
    memory = GradientDiversity(
        50, torch.device("cpu"), torch.Generator().manual_seed(0), criterion, rows_per_gradient=3
    )
    memory.add(_batch(5, 1))
    batch = _batch(7, 2)
    if flagged:
        batch.provenance[2, Column.FLAGS] = 2
    memory.add(batch)
    scores = _state_scores(memory)[5:]
    assert len(scores) == 7 - flagged
    assert len(set(scores[:3])) == len(set(scores[3:6])) == 1
    assert scores[0] != scores[3]


def test_the_model_is_left_as_it_was() -> None:
    criterion = _criterion()
    criterion.module.train()
    before = [p.clone() for p in criterion.parameters]
    memory = _memory(3, criterion)
    for seed in range(4):
        memory.add(_batch(4, seed))
    assert criterion.module.training
    assert all(p.grad is None for p in criterion.parameters)
    assert all(torch.equal(a, b) for a, b in zip(before, criterion.parameters, strict=True))
