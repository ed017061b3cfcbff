"""DER++: each step against its equation, with two draws or one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from insitu.strategies.der_pp import DERPlusPlus
from stepwise import Parts, Step, assert_descends, cross_entropies, steps
from test_strategy_der import former_outputs

ALPHA, BETA = 0.4, 0.6


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("objective", ["classify", "regress"])
def test_every_step_is_that_of_the_equation(objective: str, shared: bool) -> None:
    def make(parts: Parts) -> DERPlusPlus:
        return DERPlusPlus(
            parts.memory,
            parts.objective,
            samples_per_step=5,
            alpha=ALPHA,
            beta=BETA,
            shared_draw=shared,
        )

    found = steps(make, objective=objective, batches=8)
    then = former_outputs(found)
    for step in found[1:]:
        fresh, rows = step.fresh, step.batch.rows
        assert rows == fresh + (5 if shared else 10)

        def loss(
            weights: Tensor, step: Step = step, fresh: int = fresh, rows: int = rows
        ) -> Tensor:
            outputs = step.inputs @ weights.T
            labels = step.labels
            if objective == "classify":
                losses = cross_entropies(outputs, labels)
            else:
                losses = (outputs - labels.double()).square().mean(1)
            target = torch.stack([then[number] for number in step.ids[fresh : fresh + 5]])
            pull = (outputs[fresh : fresh + 5] - target).square().mean(1).mean()
            return losses[:fresh].mean() + ALPHA * pull + BETA * losses[rows - 5 :].mean()

        assert_descends(step, loss)


def test_both_draws_are_independent() -> None:
    def make(parts: Parts) -> DERPlusPlus:
        return DERPlusPlus(parts.memory, parts.objective, samples_per_step=10)

    drawn = [step.ids[step.fresh :] for step in steps(make, batches=20)[3:]]
    overlaps = [len(set(ids[:10]) & set(ids[10:])) for ids in drawn]
    assert all(len(set(ids[:10])) == len(set(ids[10:])) == 10 for ids in drawn)
    # of 20 remembered samples two draws of 10 share 5 on average
    assert 4.0 < sum(overlaps) / len(overlaps) < 6.0
    assert len(set(overlaps)) > 1
