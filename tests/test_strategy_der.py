"""DER: each step against its equation, what is remembered, and rows that may not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Column, SampleFlag
from insitu.strategies.dark_experience import OUTPUTS
from insitu.strategies.der import DER
from insitu.trainer import Trainer
from learning import make_batch, make_memory, make_objective, make_strategy
from stepwise import Parts, Step, assert_descends, cross_entropies, steps


def former_outputs(found: list[Step]) -> dict[int, Tensor]:
    """What the model said of every sample in the step in which it was fresh."""
    return {
        number: row
        for step in found
        for number, row in zip(step.ids, step.inputs[: step.fresh] @ step.before.T, strict=False)
    }


@pytest.mark.parametrize("objective", ["classify", "regress"])
def test_every_step_is_that_of_the_equation(objective: str) -> None:
    def make(parts: Parts) -> DER:
        return DER(parts.memory, parts.objective, samples_per_step=5, alpha=0.7)

    found = steps(make, objective=objective, batches=8)
    then = former_outputs(found)
    assert [step.batch.replayed_rows for step in found] == [0, *[5] * 7]
    for step in found:
        fresh = step.fresh

        def loss(weights: Tensor, step: Step = step, fresh: int = fresh) -> Tensor:
            outputs = step.inputs @ weights.T
            if objective == "classify":
                new = cross_entropies(outputs[:fresh], step.labels[:fresh]).mean()
            else:
                new = (outputs[:fresh] - step.labels[:fresh].double()).square().mean()
            if step.batch.replayed_rows == 0:
                return new
            target = torch.stack([then[number] for number in step.ids[fresh:]])
            return new + 0.7 * (outputs[fresh:] - target).square().mean(1).mean()

        assert_descends(step, loss)


def test_labels_of_replayed_rows_do_not_count() -> None:
    objective, memory = make_objective("classify"), make_memory()
    strategy = DER(memory, objective, samples_per_step=4)
    batch = make_batch("classify", 6, seed=0)
    memory.add(batch.with_fields({**batch.fields, OUTPUTS: torch.zeros(6, 4)}))
    augmented = strategy.augment(batch)
    assert set(augmented.fields) == {"x", "y"}
    losses = torch.arange(10.0)
    weighted = strategy.losses(augmented, torch.zeros(10, 4), losses)
    assert weighted[6:].tolist() == [0.0] * 4
    assert weighted.mean().item() == pytest.approx(losses[:6].mean().item())


def test_outputs_stay_with_their_rows_where_some_may_not_be_kept() -> None:
    objective = make_objective("classify")
    model = nn.Linear(6, 4)
    strategy = DER(make_memory(), objective, samples_per_step=3)
    trainer = Trainer(
        model, objective, torch.optim.SGD(model.parameters(), lr=0.1), strategies=[strategy]
    )
    batch = make_batch("classify", 9, seed=0)
    batch.provenance[::2, Column.FLAGS] = SampleFlag.NO_REPLAY
    with torch.no_grad():
        expected = model(batch.fields["x"])
    trainer.step(batch)
    assert len(strategy.memory) == 4
    remembered = strategy.memory.sample(4)
    assert remembered is not None
    assert sorted(remembered.column(Column.ROW).tolist()) == [1, 3, 5, 7]
    for row, outputs in zip(remembered.column(Column.ROW), remembered.fields[OUTPUTS], strict=True):
        assert torch.equal(outputs, expected[row])


def test_several_updates_remember_once() -> None:
    def make(parts: Parts) -> DER:
        made.append(DER(parts.memory, parts.objective, samples_per_step=5))
        return made[0]

    made: list[DER] = []
    steps(make, batches=2, updates_per_batch=3)
    assert len(made[0].memory) == 16
    assert sorted(made[0].memory.provenance[:, Column.SAMPLE_ID].tolist()) == list(range(16))


def test_it_tells_how_far_outputs_are() -> None:
    strategy = make_strategy("der", nn.Linear(6, 4), make_objective("classify"))
    assert float(strategy.metrics()["output_distance"]) == 0.0
    batch = make_batch("classify", 6, seed=0)
    strategy.memory.add(batch.with_fields({**batch.fields, OUTPUTS: torch.ones(6, 4)}))  # type: ignore[attr-defined]
    augmented = strategy.augment(batch)
    penalty = strategy.penalty(augmented, torch.zeros(12, 4))
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.3)
    assert float(strategy.metrics()["output_distance"]) == 1.0
