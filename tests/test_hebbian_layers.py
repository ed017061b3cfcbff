"""Hebbian layers against the published rule: loops over patches, and the authors' own numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hebbian import CONVOLUTIONS, RULES, layer, patches, rates, reference_file, rows_for, step
from insitu.layers.block import HebbianBlock, pooling
from insitu.layers.convolution import HebbianConv2d
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.learning_rates import AdaptiveRates, ConstantRates, LearningRates, LinearRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.rules.base import Rule
from insitu.layers.rules.hard import Hard
from insitu.layers.rules.soft import Soft
from insitu.layers.rules.softhebb import SoftHebb
from insitu.layers.update import HebbianUpdate
from learning import generator

GEOMETRIES: list[tuple[int, dict[str, Any]]] = [
    (0, {"channels": 7}),
    (1, {"padding": 2, "size": 5, "stride": 2}),
    (1, {"padding": 3, "size": 4, "padding_mode": "circular", "dilation": 2}),
    (2, {"padding": 1}),
    (2, {"padding": [2, 0], "size": [5, 1], "padding_mode": "circular", "stride": [2, 1]}),
    (2, {"padding": 1, "padding_mode": "zeros", "stride": 2, "dilation": 2}),
    (2, {"channels": 4, "kernels": 6, "groups": 2, "padding": 1}),
    (2, {"channels": 3, "kernels": 6, "groups": 3, "padding_mode": "zeros", "padding": 2}),
    (3, {"padding": 1, "size": [3, 2, 3]}),
    (3, {"padding": [1, 2, 0], "size": 3, "padding_mode": "circular", "dilation": [1, 1, 2]}),
    (3, {"channels": 2, "kernels": 4, "groups": 2, "padding_mode": "zeros", "padding": 1}),
]
LABELS = [2, 0, -1, 4]


def seen_by(layer: HebbianLayer, x: Tensor) -> np.ndarray[Any, Any]:
    """The patches of a layer's input; a vector is one patch."""
    if isinstance(layer, HebbianLinear):
        return x.numpy()[:, None]
    assert isinstance(layer, tuple(CONVOLUTIONS.values()))
    return patches(
        x.numpy(),
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        padding_mode=layer.padding_mode,
        dilation=layer.dilation,
    )


def assert_follows(layer: HebbianLayer, name: str, steps: int, extent: int, **near: float) -> None:
    """Potentials, directions, weights and rates of a few steps are those of the plain loops."""
    update = HebbianUpdate(layer)
    weight = layer.weight.double().numpy().copy()
    for number in range(steps):
        x = rows_for(layer, seed=number, extent=extent)
        seen = seen_by(layer, x.double())
        groups = getattr(layer, "groups", 1)
        potentials, direction = step(seen, weight, groups, name, LABELS)
        with update.recording(torch.tensor(LABELS)):
            found = layer(x)
        by_place = found.flatten(2).movedim(1, 2) if found.dim() > 2 else found[:, None]
        np.testing.assert_allclose(by_place.double(), potentials, **near)
        np.testing.assert_allclose(layer.recorded_direction.double(), direction, **near)
        np.testing.assert_allclose(layer.weight, weight, err_msg="moved in forward", **near)
        weight += rates(weight).reshape(-1, *(1,) * (weight.ndim - 1)) * direction
        update.step()
        np.testing.assert_allclose(layer.weight.double(), weight, **near)
        np.testing.assert_allclose(layer.learning_rates_in_force, rates(weight), **near)
        weight = layer.weight.double().numpy().copy()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("dimensions", "options"), GEOMETRIES)
def test_every_rule_in_every_geometry(name: str, dimensions: int, options: dict[str, Any]) -> None:
    made = layer(dimensions, by=name, **options).double()
    extent = 6 if dimensions < 3 else 5
    assert_follows(made, name, 2, extent, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_channels_last_is_the_same(name: str, dimensions: int) -> None:
    layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    one = layer(dimensions, by=name, padding=1).double()
    other = layer(dimensions, by=name, padding=1).double().to(memory_format=layout)  # type: ignore[call-overload]
    x = rows_for(one)
    for made, rows in ((one, x), (other, x.contiguous(memory_format=layout))):
        made(rows, torch.tensor(LABELS))
    assert one.direction.abs().max() > 0
    torch.testing.assert_close(
        one.recorded_direction, other.recorded_direction.contiguous(), rtol=1e-9, atol=1e-11
    )


# --- the authors' numbers


def softness(parameters: dict[str, Any]) -> Rule:
    if parameters["softness"] == "hard":
        return Hard()
    kind = {"softkrotov": SoftHebb, "soft": Soft}[parameters["softness"]]
    return kind(inverse_temperature=parameters["t_invert"])


def published_layer(parameters: dict[str, Any]) -> HebbianLayer:
    eta = parameters["lr"]
    learning_rates: LearningRates = LinearRates(eta, last_update=5000)
    if parameters["adaptive"]:
        learning_rates = AdaptiveRates(eta, power=parameters["power_lr"])
    sizes = parameters["in_channels"], parameters["out_channels"]
    if parameters["arch"] == "MLP":
        return HebbianLinear(*sizes, softness(parameters), learning_rates)
    return HebbianConv2d(
        *sizes,
        parameters["kernel_size"],
        softness(parameters),
        learning_rates,
        stride=parameters["stride"],
        padding=parameters["padding"],
        padding_mode=parameters["padding_mode"],
        dilation=parameters["dilation"],
        groups=parameters["groups"],
    )


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(reference_file(f"{name}.npz"), allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def near(found: Tensor, expected: Tensor, tolerance: float, relative: float = 0.0) -> None:
    expected = expected.expand_as(found)
    torch.testing.assert_close(found, expected, rtol=relative, atol=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        "conv_b0_k5",
        "conv_b1_k3",
        "conv_digits",
        "conv_hard",
        "conv_soft",
        "conv_zeropad",
        "linear_hard_digits",
        "linear_soft_digits",
        "linear_soft_nonadaptive",
        "linear_softkrotov_digits",
    ],
)
def test_the_authors_layers(name: str) -> None:
    expected = arrays(name)
    made = published_layer(json.loads(reference_file("settings.json").read_text())[name]["params"])
    made.load_state_dict({**made.state_dict(), "weight": expected["w0"]})
    fan_in = math.sqrt(made.weight[0].numel())
    near(made.learning_rates_in_force, expected["lr0"], 1e-6)
    update = HebbianUpdate(made)
    for number, x in enumerate(expected["x"], start=1):
        potentials = made(x)
        if number == 1:
            near(potentials, expected["out_step1"], 1e-5 * fan_in)
            near(made.rule.activities(potentials, None), expected["y_step1"], 5e-5)
            near(made.recorded_direction, expected["delta_w_step1"], 1e-5)
        update.step()
        if number == 1:
            near(made.weight, expected["w1"], 5e-6)
            near(made.learning_rates_in_force, expected["lr1"], 1e-6)
    near(made.weight, expected["w10"], 2e-5)
    near(made.learning_rates_in_force, expected["lr10"], 1e-6)
    near(made.norms, expected["norm10"], 2e-5)
    near(made.eval()(expected["x"][0]), expected["out_eval"], 1e-5 * fan_in)


def published_network(widths: tuple[int, int, int]) -> nn.Sequential:
    """The three-layer network for CIFAR-10, less its head."""
    shapes = [(3, widths[0], 5), (widths[0], widths[1], 3), (widths[1], widths[2], 3)]
    temperatures, etas, powers = (1.0, 0.65, 0.25), (0.08, 0.005, 0.01), (0.7, 1.4, 1.0)
    pools = [pooling("max", 2, 4, stride=2, padding=1) for _ in range(2)]
    pools.append(pooling("average", 2, 2))
    blocks = []
    for (channels, kernels, size), t, eta, power, pool in zip(
        shapes, temperatures, etas, powers, pools, strict=True
    ):
        rule = SoftHebb(inverse_temperature=t)
        made = HebbianConv2d(channels, kernels, size, rule, AdaptiveRates(eta), padding=size // 2)
        blocks.append(HebbianBlock(made, power=power, pool=pool))
    return nn.Sequential(*blocks)


def test_the_authors_network_with_all_blocks_plastic() -> None:
    expected = arrays("net_consecutive")
    net = published_network((16, 32, 48))
    blocks = [block for block in net if isinstance(block, HebbianBlock)]
    for i, block in enumerate(blocks):
        block.layer.load_state_dict({**block.layer.state_dict(), "weight": expected[f"b{i}_w0"]})
    update = HebbianUpdate(net)
    for number, features in enumerate(expected["x"], start=1):
        for i, block in enumerate(blocks):
            features = block(features)
            if number == 1:
                near(features, expected[f"b{i}_out_step1"], 1e-4)
                near(block.layer.recorded_direction, expected[f"b{i}_delta_w_step1"], 1e-5)
        update.step()
        if number == 1:
            for i, block in enumerate(blocks):
                near(block.layer.weight, expected[f"b{i}_w1"], 5e-6)
    features = expected["x"][0]
    for i, block in enumerate(blocks):
        assert block.standardisation is not None
        near(block.layer.weight, expected[f"b{i}_w_end"], 2e-5)
        near(block.standardisation.running_mean, expected[f"b{i}_bn_mean"], 1e-4, relative=1e-5)
        near(block.standardisation.running_var, expected[f"b{i}_bn_var"], 1e-4, relative=1e-5)
        features = block.eval()(features)
        near(features, expected[f"b{i}_out_eval"], 1e-4, relative=1e-5)
    logits = features.flatten(1) @ expected["head_w"].T + expected["head_b"]
    near(logits, expected["logits_eval"], 1e-4, relative=1e-5)


# --- first weights and learning rates


@pytest.mark.parametrize("kind", ["normal", "uniform", "positive"])
def test_first_weights_have_the_norm_asked_for(kind: Any) -> None:
    options = {"initial_weights": kind, "radius": 25.0, "channels": 3, "kernels": 400}
    made = layer(2, size=5, **options)
    assert made.norms.mean() == pytest.approx(25.0, rel=0.02)
    assert (made.weight.min() >= 0) == (kind == "positive")
    bound = 25.0 * math.sqrt(3.0 / 75.0)
    assert (made.weight.abs().max() <= bound) == (kind != "normal")
    again, other = layer(2, size=5, **options), layer(2, size=5, seed=1, **options)
    assert torch.equal(made.weight, again.weight)
    assert not torch.equal(made.weight, other.weight)


def test_first_weights_leave_the_global_generator_where_it_was() -> None:
    before = torch.get_rng_state()
    layer(2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("learning_rates", "expected"),
    [
        (ConstantRates(0.2), [0.2, 0.2, 0.2, 0.2]),
        (LinearRates(0.2, last_update=2), [0.2, 0.1, 0.0, 0.0]),
    ],
)
def test_rates_that_do_not_depend_on_norms(
    learning_rates: LearningRates, expected: list[float]
) -> None:
    made = HebbianLinear(4, 3, SoftHebb(), learning_rates, generator=generator(0))
    update = HebbianUpdate(made)
    for number, rate in enumerate(expected):
        assert made.learning_rates_in_force.tolist() == pytest.approx([rate] * 3), number
        before = made.weight.clone()
        made(rows_for(made, seed=number))
        direction = made.recorded_direction
        update.step()
        torch.testing.assert_close(made.weight, before + rate * direction)
