"""The density objective and its flow: a real density, the right one, and learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.models import spline
from insitu.models.conditional_flow import ConditionalFlow
from insitu.models.spline import Splines
from insitu.objectives.density import Density
from insitu.schema import Schema
from insitu.trainer import Trainer

SCHEMA = Schema.of({"x": ("float32", (2,)), "time": ("float32", ())})


def random_flow(
    dimensions: int, conditions: int, seed: int = 0, *, bound: float = 3.0
) -> nn.Module:
    """In float64, with weights far from the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = ConditionalFlow(
            (dimensions + conditions,),
            (1,),
            conditions=conditions,
            hidden=(8,),
            bins=5,
            bound=bound,
        ).double()
        for parameter in flow.parameters():
            nn.init.normal_(parameter, std=0.4)
    return flow


@given(seed=st.integers(0, 10_000), bins=st.integers(2, 12), size=st.floats(0.1, 5.0))
@settings(max_examples=40, deadline=None)
def test_splines_rise_meet_the_identity_and_go_back(seed: int, bins: int, size: float) -> None:
    random = torch.Generator().manual_seed(seed)
    numbers = size * torch.randn(spline.parameters_of(bins), generator=random, dtype=torch.float64)
    x = torch.linspace(-3.0, 3.0, 401, dtype=torch.float64)
    splines = Splines.of(numbers.expand(401, -1), bound=2.0)
    y, log_slope = spline.forward(x, splines)
    assert bool((y.diff() > 0).all())
    outside = x.abs() >= 2.0
    assert torch.equal(y[outside], x[outside])
    assert not log_slope[outside].any()
    # relative to how steep the spline is there
    torch.testing.assert_close(spline.inverse(y, splines), x, rtol=1e-6, atol=1e-6)


def test_the_slope_is_that_of_autograd() -> None:
    numbers = torch.randn(64, spline.parameters_of(6), dtype=torch.float64)
    x = (torch.rand(64, dtype=torch.float64) * 6 - 3).requires_grad_()
    y, log_slope = spline.forward(x, Splines.of(numbers, bound=2.0))
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log())


@pytest.mark.parametrize(("dimensions", "conditions"), [(1, 0), (1, 2), (2, 1), (3, 0), (5, 2)])
def test_the_volume_is_that_of_autograds_jacobian(dimensions: int, conditions: int) -> None:
    flow = random_flow(dimensions, conditions)
    assert isinstance(flow, ConditionalFlow)
    inputs = torch.randn(6, dimensions + conditions, dtype=torch.float64)
    z, log_volume = flow.to_base(inputs)
    for row in range(6):

        def to_base(x: Tensor, row: int = row) -> Tensor:
            given_condition = torch.cat((x, inputs[row, dimensions:]))
            return flow.to_base(given_condition.unsqueeze(0))[0][0]

        jacobian = torch.autograd.functional.jacobian(to_base, inputs[row, :dimensions])
        torch.testing.assert_close(log_volume[row], torch.linalg.slogdet(jacobian)[1])
    log_base = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    torch.testing.assert_close(flow(inputs).squeeze(1), log_base + log_volume)


def test_the_density_integrates_to_one() -> None:
    flow = random_flow(2, 1, seed=3)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    inputs = torch.cat((grid, torch.full((len(grid), 1), 0.5, dtype=torch.float64)), dim=1)
    with torch.no_grad():
        mass = flow(inputs).exp().sum() * float(axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize(("dimensions", "conditions"), [(1, 1), (2, 1), (3, 0)])
def test_samples_go_back_to_the_noise_they_were_made_of(dimensions: int, conditions: int) -> None:
    flow = random_flow(dimensions, conditions)
    assert isinstance(flow, ConditionalFlow)
    condition = torch.randn(50, conditions, dtype=torch.float64)
    drawn = flow.sample(condition, torch.Generator().manual_seed(4))
    noise = torch.randn(50, dimensions, generator=torch.Generator().manual_seed(4)).double()
    z, _ = flow.to_base(torch.cat((drawn, condition), dim=1))
    torch.testing.assert_close(z, noise, rtol=1e-6, atol=1e-6)


def test_the_loss_is_the_negative_log_density() -> None:
    """At first the flow is a standard Gaussian."""
    objective = Density(SCHEMA, condition="time")
    model = objective.network(ConditionalFlow((3,), (1,)))
    batch = Batch.of({"x": torch.tensor([[1.0, -2.0]]), "time": torch.tensor([0.7])})
    outputs = objective.predict(model, batch)
    wanted = 0.5 * (1 + 4) + math.log(2 * math.pi)
    assert objective.losses(outputs, batch).item() == pytest.approx(wanted, rel=1e-5)
    score = objective.scores(outputs.detach(), batch)["log_likelihood"]
    assert score.item() == pytest.approx(-wanted, rel=1e-5)


def test_a_flow_that_takes_another_part_for_x_is_refused() -> None:
    with pytest.raises(OperatorError, match=r"takes 1 of its 3 inputs.*conditions to 1"):
        Density(SCHEMA, condition="time").network(ConditionalFlow((3,), (1,), conditions=2))
    with pytest.raises(OperatorError, match="2 inputs, 2 of them conditions"):
        ConditionalFlow((2,), (1,), conditions=2)
    with pytest.raises(OperatorError, match=r"is to give \[3\]"):
        ConditionalFlow((2,), (3,), conditions=1)


def eight_gaussians(rows: int, random: np.random.Generator) -> Batch:
    """Eight of variance 0.04, shifted by t in x and, where y > 0, in y; t of 12 steps of 0.3."""
    wide, narrow = 2.4142, 1.0
    places = [(a * i, b * j) for a, b in ((wide, narrow), (narrow, wide)) for i in (1, -1) for j in (1, -1)]  # fmt: skip # noqa: E501
    centres = np.array(places)[random.integers(8, size=rows)]
    time = 0.3 * random.integers(12, size=rows)
    x = centres + 0.2 * random.normal(size=(rows, 2))
    x[:, 0] += time
    x[:, 1] += time * (centres[:, 1] > 0)
    return Batch.of({"x": torch.tensor(x).float(), "time": torch.tensor(time).float()})


def test_the_flow_learns_eight_drifting_gaussians() -> None:
    """Entropy of the mixture: log 8 + 1 + log(2 pi 0.04) = 1.699 nats."""
    entropy = math.log(8) + 1 + math.log(2 * math.pi * 0.04)
    objective, random = Density(SCHEMA, condition="time"), np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = objective.network(ConditionalFlow((3,), (1,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = Trainer(model, objective, optimizer)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 400))
        trainer.step(eight_gaussians(128, random))
    held_out = eight_gaussians(2048, random)
    loss = trainer.evaluate(held_out).loss
    assert entropy - 0.1 < loss < entropy + 0.25
