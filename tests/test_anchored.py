"""The pull to the anchor: both ways of applying it against their formulas, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.strategies.anchored import Anchored
from insitu.strategies.quadratics import add_quadratic
from regularisers import ByHand, assert_close, random_gradients

IMPORTANCE, ANCHOR, GRADIENT = random_gradients(3, seed=7)
IMPORTANCE = [tensor.square() for tensor in IMPORTANCE]


def pulled(apply: str, strength: float, learning_rate: float = 0.1) -> ByHand:
    def make(criterion: Criterion, optimizer: torch.optim.Optimizer) -> Anchored:
        strategy = Anchored(criterion, optimizer, strength=strength, apply=apply)  # type: ignore[arg-type]
        strategy.consolidate([f.clone() for f in IMPORTANCE], [a.clone() for a in ANCHOR])
        return strategy

    return ByHand(make, learning_rate=learning_rate)


def penalty(weights: list[Tensor], strength: float) -> float:
    terms = zip(weights, IMPORTANCE, ANCHOR, strict=True)
    return sum((strength / 2 * f * (w - a) ** 2).sum().item() for w, f, a in terms)


@pytest.mark.parametrize("strength", [0.01, 3.0])
def test_the_gradient_of_the_penalty_is_added(strength: float) -> None:
    run = pulled("gradient", strength)
    before, value = run.weights(), float(run.strategy.metrics()["penalty"])
    run.step(GRADIENT)
    expected = [
        w - 0.1 * (g + strength * f * (w - a))
        for w, g, f, a in zip(before, GRADIENT, IMPORTANCE, ANCHOR, strict=True)
    ]
    assert_close(run.weights(), expected)
    assert value == pytest.approx(penalty(before, strength), rel=1e-6)


@pytest.mark.parametrize("strength", [0.01, 3.0, 1e6])
def test_the_proximal_step_is_the_closed_form(strength: float) -> None:
    run = pulled("proximal", strength)
    before, value = run.weights(), float(run.strategy.metrics()["penalty"])
    run.step(GRADIENT)
    expected = [
        (w - 0.1 * g + 0.1 * strength * f * a) / (1 + 0.1 * strength * f)
        for w, g, f, a in zip(before, GRADIENT, IMPORTANCE, ANCHOR, strict=True)
    ]
    assert_close(run.weights(), expected)
    assert value == pytest.approx(penalty(before, strength), rel=1e-6)


def test_strength_is_twice_the_lambda_of_a_penalty_without_the_half() -> None:
    lamda, run = 0.7, pulled("proximal", 1.4)
    before = run.weights()
    run.step(GRADIENT)
    expected = [
        (w - 0.1 * g + 2 * 0.1 * lamda * f * a) / (1 + 2 * 0.1 * lamda * f)
        for w, g, f, a in zip(before, GRADIENT, IMPORTANCE, ANCHOR, strict=True)
    ]
    assert_close(run.weights(), expected)


def test_both_ways_agree_to_first_order() -> None:
    apart = []
    for learning_rate in (1e-3, 1e-4):
        runs = [pulled(apply, 1.0, learning_rate) for apply in ("gradient", "proximal")]
        for run in runs:
            run.step(GRADIENT)
        one, other = (torch.cat([w.flatten() for w in run.weights()]) for run in runs)
        apart.append((one - other).norm().item())
    assert apart[1] == pytest.approx(apart[0] / 100, rel=0.05)


def test_proximal_holds_where_the_gradient_diverges() -> None:
    strength = 1e6
    diverging, stable = pulled("gradient", strength), pulled("proximal", strength)
    for gradients in random_gradients(60):
        diverging.step(gradients)
        stable.step(gradients)
    assert not all(w.abs().max() < 1e20 for w in diverging.weights())
    for weight, anchor, importance in zip(stable.weights(), ANCHOR, IMPORTANCE, strict=True):
        important = importance > 0.01
        assert (weight - anchor)[important].abs().max() < 1e-3


def test_the_proximal_step_follows_the_learning_rate() -> None:
    run = pulled("proximal", 3.0)
    run.step(GRADIENT)
    run.optimizer.param_groups[0]["lr"] = 0.02
    before = run.weights()
    run.step(GRADIENT)
    expected = [
        (w - 0.02 * g + 0.02 * 3.0 * f * a) / (1 + 0.02 * 3.0 * f)
        for w, g, f, a in zip(before, GRADIENT, IMPORTANCE, ANCHOR, strict=True)
    ]
    assert_close(run.weights(), expected)


def test_each_parameter_group_has_its_own_rate() -> None:
    run = pulled("proximal", 3.0)
    run.optimizer.param_groups.clear()
    run.optimizer.add_param_group({"params": [run.parameters[0]], "lr": 0.5})
    before = run.weights()
    run.step(GRADIENT)
    w, g, f, a = before[0], GRADIENT[0], IMPORTANCE[0], ANCHOR[0]
    assert_close(run.weights(), [(w - 0.5 * g + 1.5 * f * a) / (1 + 1.5 * f), before[1]])


def test_a_parameter_without_a_gradient_is_pulled_too() -> None:
    run = pulled("gradient", 3.0)
    before = run.weights()[1]
    run.parameters[0].grad, run.parameters[1].grad = GRADIENT[0].clone(), None
    run.strategy.adjust_gradients()
    assert run.parameters[1].grad is not None
    assert_close([run.parameters[1].grad], [3.0 * IMPORTANCE[1] * (before - ANCHOR[1])])


@pytest.mark.parametrize("apply", ["gradient", "proximal"])
def test_a_loaded_state_pulls_as_before(apply: str) -> None:
    run, other = pulled(apply, 3.0), pulled(apply, 3.0)
    run.strategy.consolidate([f + 1.0 for f in IMPORTANCE], [a + 1.0 for a in ANCHOR])
    other.step(GRADIENT)
    other.strategy.load_state_dict(run.strategy.state_dict())
    for parameter, weight in zip(other.parameters, run.weights(), strict=True):
        parameter.data.copy_(weight)
    run.step(GRADIENT)
    other.step(GRADIENT)
    assert all(torch.equal(a, b) for a, b in zip(run.weights(), other.weights(), strict=True))


def test_metrics_tell_the_distance_from_the_anchor() -> None:
    run = pulled("gradient", 1.0)
    apart = [w - a for w, a in zip(run.weights(), ANCHOR, strict=True)]
    expected = torch.cat([d.flatten() for d in apart]).norm().item()
    metrics = run.strategy.metrics()
    assert float(metrics["distance"]) == pytest.approx(expected)
    mean = torch.cat([f.flatten() for f in IMPORTANCE]).mean().item()
    assert float(metrics["importance_mean"]) == pytest.approx(mean)


def test_a_state_of_another_model_is_refused_by_name() -> None:
    run = pulled("gradient", 1.0)
    saved = run.strategy.state_dict()
    saved["anchor"] = {"weight": torch.zeros(2)}
    with pytest.raises(OperatorError, match=r"strategy.anchor is for parameters {'weight': \[2\]}"):
        run.strategy.load_state_dict(saved)


def test_a_sum_of_quadratics_is_one_quadratic() -> None:
    total, mean, constant = [torch.zeros(2, 3).double()], [torch.ones(2, 3).double()], 0.0
    kept = []
    for importance, anchor in zip(random_gradients(5, 1), random_gradients(5, 2), strict=True):
        importance[0] = importance[0].clamp_min(0.0)
        kept.append((importance[0], anchor[0]))
        constant += add_quadratic(total, mean, importance[:1], anchor[:1]).item()
    (point, _), *_ = random_gradients(1, 3)
    expected = sum((f * (point - a) ** 2).sum().item() for f, a in kept)
    found = (total[0] * (point - mean[0]) ** 2).sum().item() + constant
    assert found == pytest.approx(expected, rel=1e-12)
