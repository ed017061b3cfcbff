"""What holds of every pull to an anchor, whatever the network: through a trainer's steps alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.component import catalogue
from insitu.criterion import Criterion
from insitu.strategies.base import Strategy
from insitu.trainer import Trainer
from learning import INPUTS, generator, make_batch, make_objective

LEARNING_RATE = 0.05
every_regulariser = pytest.mark.parametrize("name", ["ewc", "online_ewc", "si", "mas", "rwalk"])


@dataclass(frozen=True)
class Network:
    """A small network and the stream that it learns from."""

    widths: tuple[int, ...]
    activation: type[nn.Module]
    bias: bool
    objective: str
    rows: int
    seed: int

    def module(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            layers: list[nn.Module] = []
            size = INPUTS
            for width in self.widths:
                layers += [nn.Linear(size, width, bias=self.bias), self.activation()]
                size = width
            (outputs,) = make_objective(self.objective).output_shape
            return nn.Sequential(*layers, nn.Linear(size, outputs))

    def batch(self, number: int, task: int = 0) -> Batch:
        return make_batch(self.objective, self.rows, seed=100 * self.seed + number, task=task)


networks = st.builds(
    Network,
    widths=st.lists(st.integers(1, 6), max_size=2).map(tuple),
    activation=st.sampled_from([nn.Tanh, nn.ReLU, nn.Sigmoid]),
    bias=st.booleans(),
    objective=st.sampled_from(["classify", "regress"]),
    rows=st.integers(1, 9),
    seed=st.integers(0, 50),
)


class Run:
    """A trainer with one regulariser, and how the same step goes without it."""

    def __init__(self, name: str, network: Network, **options: Any) -> None:
        self.network = network
        self.objective = make_objective(network.objective)
        self.module = network.module()
        optimizer = torch.optim.SGD(self.module.parameters(), lr=LEARNING_RATE)
        parts = {
            "criterion": Criterion(self.module, self.objective),
            "model": self.module,
            "objective": self.objective,
            "normaliser": None,
            "optimizer": optimizer,
            "device": torch.device("cpu"),
            "generator": generator(network.seed),
        }
        component = catalogue("insitu.strategies")[name]
        self.strategy: Strategy = component.build(options, parts)
        self.trainer = Trainer(self.module, self.objective, optimizer, strategies=[self.strategy])

    def learn(self, task: int, steps: int = 3) -> None:
        for number in range(steps):
            self.trainer.step(self.network.batch(10 * task + number, task))
        self.trainer.end_task(task)

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def without(self, batch: Batch) -> dict[str, Tensor]:
        """The weights after a step on the batch that nothing pulls."""
        module = copy.deepcopy(self.module)
        optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
        Trainer(module, self.objective, optimizer).step(batch)
        return {name: p.detach() for name, p in module.named_parameters()}

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Importances and anchor, by name."""
        state = self.strategy.state_dict()
        return tuple(  # type: ignore[return-value]
            {name: tensor.detach().clone() for name, tensor in state[key].items()}
            for key in ("importance", "anchor")
        )


@every_regulariser
@settings(max_examples=12, deadline=None)
@given(network=networks, strength=st.sampled_from([0.1, 10.0]))
def test_importances_are_never_negative_and_nothing_pulls_at_the_anchor(
    name: str, network: Network, strength: float
) -> None:
    run = Run(name, network, strength=strength, apply="gradient")
    run.learn(0)
    metrics = run.strategy.metrics()
    assert (float(metrics["penalty"]), float(metrics["distance"])) == (0.0, 0.0)
    batch = network.batch(7)
    expected = run.without(batch)
    run.trainer.step(batch)
    for parameter, weight in run.weights().items():
        assert torch.equal(weight, expected[parameter]), "at the anchor a step is a plain one"
    run = Run(name, network, strength=strength, apply="proximal")  # at 10 the gradient may diverge
    run.learn(0)
    run.learn(1)
    importance, _ = run.kept()
    assert importance.keys() == expected.keys()
    for values in importance.values():
        assert bool((values >= 0.0).all() & values.isfinite().all())
    assert float(run.strategy.metrics()["penalty"]) >= 0.0


@every_regulariser
@settings(max_examples=12, deadline=None)
@given(network=networks, strength=st.sampled_from([0.1, 1.0, 10.0]))
def test_a_step_by_gradient_descends_the_written_penalty(
    name: str, network: Network, strength: float
) -> None:
    run = Run(name, network, strength=strength, apply="gradient")
    run.learn(0)
    run.trainer.step(network.batch(7))
    (importance, anchor), batch = run.kept(), network.batch(8)
    before, expected = run.weights(), run.without(batch)
    weights = {parameter: w.double().requires_grad_() for parameter, w in before.items()}
    terms = [
        (strength / 2 * importance[parameter] * (w - anchor[parameter]).square()).sum()
        for parameter, w in weights.items()
    ]
    penalty = torch.stack(terms).sum()
    gradients = torch.autograd.grad(penalty, list(weights.values()))
    told = float(run.strategy.metrics()["penalty"])
    assert told == pytest.approx(penalty.item(), rel=1e-4, abs=1e-12)
    run.trainer.step(batch)
    for (parameter, weight), gradient in zip(run.weights().items(), gradients, strict=True):
        moved = expected[parameter] - LEARNING_RATE * gradient.float()
        scale = before[parameter].abs().max() + gradient.abs().max()
        torch.testing.assert_close(weight, moved, rtol=1e-4, atol=2e-6 * float(1 + scale))


@every_regulariser
@settings(max_examples=12, deadline=None)
@given(network=networks, exponent=st.floats(-3.0, 8.0))
def test_a_proximal_step_never_overshoots_the_anchor(
    name: str, network: Network, exponent: float
) -> None:
    run = Run(name, network, strength=10.0**exponent, apply="proximal")
    run.learn(0)
    for number in range(3):
        batch = network.batch(20 + number)
        _, anchor = run.kept()
        free = run.without(batch)
        assert not run.trainer.step(batch).skipped
        for parameter, weight in run.weights().items():
            apart, freely = weight - anchor[parameter], free[parameter] - anchor[parameter]
            rounding = 1e-6 * (anchor[parameter].abs() + free[parameter].abs())
            assert bool((apart * freely.sign() >= -rounding).all()), "on the other side"
            assert bool((apart.abs() <= freely.abs() + rounding).all()), "farther away"
