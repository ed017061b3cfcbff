"""The Hebbian network: what it is made of, what it refuses, who learns when."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from hebbian import RULES
from hebbian_network import (
    CLASSES,
    CONVOLUTION,
    DENSE,
    SHAPE,
    counts,
    fields,
    layers,
    make,
    plasticity,
)
from insitu.analysis.hebbian_layers import hebbian_figures
from insitu.component import catalogue
from insitu.errors import OperatorError
from insitu.layers.convolution import HebbianConvolution
from insitu.layers.learning_rates import AdaptiveRates, LinearRates
from insitu.layers.rules.krotov_hopfield import KrotovHopfield
from insitu.layers.rules.soft import Soft
from insitu.layers.rules.softhebb import SoftHebb
from insitu.layers.update import HebbianUpdate
from insitu.models.build import build_model
from insitu.models.hebbian import Hebbian
from insitu.models.hebbian_heads import PerPlace, Scale
from learning import assert_same, copied, generator

# --- what it is made of


@pytest.mark.parametrize(
    ("shape", "dimensions", "block", "maps"),
    [
        ((8, 8), None, CONVOLUTION, (7, 4, 4)),
        ((3, 8, 9), None, CONVOLUTION, (7, 4, 4)),
        ((2, 6, 6, 4), None, CONVOLUTION, (7, 3, 3, 2)),
        ((6, 4, 5), 3, CONVOLUTION, (7, 3, 2, 2)),
        ((12,), 1, CONVOLUTION, (7, 6)),
        ((3, 12), 1, CONVOLUTION, (7, 6)),
        ((12,), None, DENSE, (11,)),
        ((3, 4), 0, DENSE, (11,)),
        ((3, 4, 4), None, DENSE, (11,)),
        ((), None, DENSE, (11,)),
    ],
)
def test_shapes_in_all_dimensions(
    shape: tuple[int, ...], dimensions: int | None, block: Any, maps: tuple[int, ...]
) -> None:
    model = make(shape, blocks=[block], dimensions=dimensions)
    assert (model.maps_shape, model.features) == (maps, math.prod(maps))
    update = HebbianUpdate(model)
    assert model(fields(4, 0, shape)).shape == (4, CLASSES)
    before = layers(model)[0].weight.clone()
    update.step()
    assert not torch.equal(layers(model)[0].weight, before)


def test_the_published_networks() -> None:
    """Numbers as in the authors' presets and, for CIFAR-10, in the paper."""
    kernels, rates, temperatures = {}, {}, {}
    for name, shape in (("mnist", (28, 28)), ("cifar10", (3, 32, 32)), ("stl10", (3, 96, 96))):
        model = make(shape, (10,), network=name, width=0.125)
        found = layers(model)
        kernels[name] = [layer.out_channels for layer in found]  # type: ignore[attr-defined]
        rates[name] = [(layer.learning_rates.eta, layer.learning_rates.power) for layer in found]  # type: ignore[attr-defined]
        temperatures[name] = [layer.rule.inverse_temperature for layer in found]  # type: ignore[attr-defined]
        if name == "cifar10":
            assert model.maps_shape == (192, 4, 4)
            assert [b.activation.power for b in model.blocks] == [0.7, 1.4, 1.0]  # type: ignore[union-attr]
        if name == "stl10":
            assert model.maps_shape == (768, 6, 6)
        if name == "mnist":
            assert isinstance(found[0].rule, Soft)
    assert kernels == {"mnist": [250], "cifar10": [12, 48, 192], "stl10": [12, 48, 192, 768]}
    assert rates["mnist"] == [(0.045, 0.2)]
    assert rates["cifar10"] == [(0.08, 0.5), (0.005, 0.5), (0.01, 0.5)]
    assert temperatures["cifar10"] == [1.0, 0.65, 0.25]
    assert temperatures["stl10"] == [1.0, 0.65, 0.45, 0.25]


def test_a_softmax_block_gives_shares() -> None:
    block = {**DENSE, "activation": "softmax", "activation_parameter": 2.0, "standardise": False}
    model = make(blocks=[block]).eval()
    rows = fields(3, 0)
    potentials = rows.flatten(1) @ layers(model)[0].weight.T
    expected = torch.softmax(2.0 * potentials, dim=1)
    torch.testing.assert_close(model.blocks[0](rows.flatten(1)), expected)


def test_every_option_of_a_block_arrives() -> None:
    block = {
        "kernels": 6,
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "dilation": 2,
        "groups": 2,
        "padding_mode": "zeros",
        "rule": {"name": "krotov_hopfield", "options": {"rank": 3, "delta": 0.2}},
        "eta": 0.5,
        "rates": "linear",
        "last_update": 9,
        "initial_weights": "positive",
        "radius": 2.0,
        "standardise": False,
        "activation": "none",
    }
    model = make(blocks=[block], width=2.0)
    (stage,) = model.blocks
    layer = stage.layer
    assert isinstance(layer, HebbianConvolution)
    assert isinstance(layer.rule, KrotovHopfield)
    assert isinstance(layer.learning_rates, LinearRates)
    assert (layer.rule.rank, layer.rule.delta) == (3, 0.2)
    assert (layer.learning_rates.eta, layer.learning_rates.last_update) == (0.5, 9)
    assert (layer.out_channels, layer.stride, layer.padding) == (12, [2, 2], [1, 1])
    assert (layer.dilation, layer.groups, layer.padding_mode) == ([2, 2], 2, "zeros")
    assert bool((layer.weight >= 0).all())
    assert 1.0 < layer.norms.mean() < 3.0
    assert stage.standardisation is None
    assert stage.activation is None
    assert make(blocks=[block], padding_mode="circular").blocks[0].layer.padding_mode == "circular"  # type: ignore[union-attr]
    plain = layers(make(blocks=[{"kernels": 2}]))[0]
    assert isinstance(plain.rule, SoftHebb)
    assert isinstance(plain.learning_rates, AdaptiveRates)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_periodic_network_does_not_know_where_a_field_begins(kind: str) -> None:
    """Shifted by whole strides the maps are shifted; with other padding they are not."""
    pool = {"kind": kind, "size": 4, "stride": 2, "padding": 1}
    blocks = [{**CONVOLUTION, "pool": pool}, {"kernels": 5, "kernel_size": 3, "pool": pool}]

    def maps(model: Hebbian, rows: Tensor) -> Tensor:
        for block in model.blocks:
            rows = block(rows)
        return rows

    rows, shape = fields(2, 1, (1, 8, 16)), (8, 16)
    periodic = make(shape, blocks=blocks, padding_mode="circular").eval()
    shifted = maps(periodic, rows.roll((4, 8), dims=(2, 3)))
    torch.testing.assert_close(shifted, maps(periodic, rows).roll((1, 2), dims=(2, 3)))
    mirrored = make(shape, blocks=blocks).eval()
    shifted = maps(mirrored, rows.roll((4, 8), dims=(2, 3)))
    assert not torch.allclose(shifted, maps(mirrored, rows).roll((1, 2), dims=(2, 3)), atol=1e-3)


def test_the_configuration_on_the_page_is_one() -> None:
    page = (Path(__file__).parent.parent / "insitu" / "docs" / "hebbian.md").read_text()
    block = page.split("## In a configuration")[1].split("\n`deploy")[0]
    (model,) = yaml.safe_load(block).values()
    found = build_model(model["name"], model["options"], (2, 16, 16), (4,), seed=0)
    assert [len(layer.norms) for layer in layers(found)] == [32, 64]


# --- heads


def test_the_head_follows_the_output() -> None:
    assert isinstance(make(output_shape=(11,)).head, Scale)
    assert isinstance(make(output_shape=(4,)).head, nn.Sequential)
    convolutions = {"blocks": [CONVOLUTION]}
    assert isinstance(make(output_shape=SHAPE, **convolutions).head, PerPlace)
    assert isinstance(make((8, 6), (8, 6), **convolutions).head, PerPlace)
    assert isinstance(make(output_shape=(3, 8, 6), **convolutions).head, PerPlace)
    assert isinstance(make(output_shape=SHAPE, head="linear").head, nn.Sequential)


@pytest.mark.parametrize("places", [(8,), (8, 6), (4, 6, 2)])
def test_a_per_place_head_is_one_matrix_at_every_place(places: tuple[int, ...]) -> None:
    coarse = tuple(extent // 2 for extent in places)
    head, maps = PerPlace((3, *coarse), 2, places), fields(2, 0, (3, *coarse))
    matrix = head.convolution.weight.flatten(1)
    found = torch.zeros(2, 2, *places)
    for place in torch.cartesian_prod(*map(torch.arange, places)).reshape(-1, len(places)).tolist():
        at = tuple(extent // 2 for extent in place)
        within = 0
        for extent in place:
            within = 2 * within + extent % 2
        per_channel = 2 ** len(places)
        values = maps[(slice(None), slice(None), *at)] @ matrix.T + head.convolution.bias
        chosen = values[:, [within, per_channel + within]]
        found[(slice(None), slice(None), *place)] = chosen
    torch.testing.assert_close(head(maps), found)


def test_features_of_a_row_are_normalised() -> None:
    model = make(output_shape=(11,)).eval()
    outputs = model(fields(3, 0))
    torch.testing.assert_close(outputs.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.var(dim=1, correction=0), torch.ones(3))
    with torch.no_grad():
        layers(model)[-1].weight *= 5.0
    torch.testing.assert_close(model(fields(3, 0)), outputs, rtol=1e-3, atol=1e-3)


# --- what is refused

_RANK_3 = {"name": "krotov_hopfield", "options": {"rank": 3}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": []}, "network is None, and there are 0 blocks"),
        ({"order": "successive"}, "plastic_updates null"),
        ({"blocks": [DENSE, CONVOLUTION]}, "block 1: kernel_size is 3.*no places"),
        ({"blocks": [{**CONVOLUTION, "kernel_size": 99, "padding": 0}]}, "block 0.*99 places"),
        ({"blocks": [{**CONVOLUTION, "groups": 3}]}, "block 0.*3 groups do not divide"),
        ({"blocks": [{**CONVOLUTION, "pool": {"size": 20}}]}, "block 0 cannot take maps"),
        ({"blocks": [{**CONVOLUTION, "pool": {"padding": 2}}]}, "block 0: a pool of size 2"),
        ({"blocks": [{**DENSE, "stride": 2}]}, "stride is for convolutions"),
        ({"blocks": [{**CONVOLUTION, "activation": "softmax"}]}, "for kernel_size null"),
        ({"blocks": [{**DENSE, "rates": "linear"}]}, "`linear` needs last_update"),
        ({"blocks": [{**DENSE, "rule": {"name": "haard"}}]}, "no 'haard'.*hard"),
        ({"blocks": [{**DENSE, "rule": {"options": {"t": 1}}}]}, "t: no such option"),
        ({"blocks": [{**DENSE, "kernels": 2, "rule": _RANK_3}]}, "block 0: .*rank is 3.*2 kernels"),
        ({"blocks": [{**DENSE, "kernals": 1}]}, "kernals: no such option"),
        ({"head": "scale"}, "head is scale, and 11 features.*`features` to 11"),
        ({"network": "cifar10", "dimensions": 0}, "block 0: kernel_size is 5"),
        ({"dimensions": 1}, r"shape \[2, 8, 6\]; allowed: 1 axes"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        make(**options)


def test_a_network_and_blocks_are_refused() -> None:
    with pytest.raises(OperatorError, match="network is 'mnist', and there are 1 blocks"):
        Hebbian(SHAPE, (3,), network="mnist", blocks=make_block_options())


def make_block_options() -> Any:
    return catalogue("insitu.models")["hebbian"].check({"blocks": [DENSE]})["blocks"]


def test_a_field_that_the_maps_do_not_divide_is_refused_with_what_works() -> None:
    with pytest.raises(OperatorError, match=r"\[3, 3\] places.*classify, regress"):
        make((7, 7), (7, 7), blocks=[CONVOLUTION])


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(OperatorError, match="no parameter to train"):
        make(output_shape=(11,), head="none")


# --- who learns when


def test_consecutive_blocks_learn_at_once_and_for_ever() -> None:
    model = make()
    update = HebbianUpdate(model)
    for number in range(5):
        model(fields(4, number))
        update.step()
    assert counts(model) == [5, 5]
    assert plasticity(model) == [True, True]


def test_successive_blocks_learn_one_after_the_other() -> None:
    model = make(order="successive", plastic_updates=3)
    update = HebbianUpdate(model)
    seen, statistics = [], []
    for number in range(8):
        model(fields(4, number))
        update.step()
        seen.append(counts(model))
        first = model.blocks[0].standardisation
        assert isinstance(first, nn.Module)
        statistics.append(int(first.num_batches_tracked))  # type: ignore[call-overload]
    assert seen == [[1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [3, 3], [3, 3], [3, 3]]
    assert statistics == [1, 2, 3, 3, 3, 3, 3, 3]  # a frozen block's statistics stay


def test_passes_that_make_no_update_do_not_count() -> None:
    """Two are forgotten, one is of zeros; the second block begins after 3 updates all the same."""
    model = make(order="successive", plastic_updates=3, blocks=[
        {**CONVOLUTION, "standardise": False}, DENSE,
    ])  # fmt: skip
    update = HebbianUpdate(model)
    for number in range(3):
        model(fields(4, number))
        update.discard() if number < 2 else update.step()
    model(torch.zeros(4, *SHAPE))
    update.step()
    assert counts(model) == [1, 0]
    for number in range(4):
        model(fields(4, number))
        update.step()
    assert counts(model) == [3, 2]


def test_passes_that_do_not_record_neither_count_nor_move_anything() -> None:
    model = make(order="successive", plastic_updates=2)
    update = HebbianUpdate(model, record_always=False)
    before = copied(model.state_dict())
    for number in range(5):
        model(fields(4, number))
        update.step()
    assert_same(copied(model.state_dict()), before)
    for _ in range(3):
        with update.recording():
            model(fields(4, 9))
        update.step()
    assert counts(model) == [2, 1]


def test_frozen_blocks_stay_frozen_through_evaluation() -> None:
    model = make(plastic_updates=0)
    model.eval().train()
    before = copied(model.state_dict())
    rows = fields(5, 0)
    alone = torch.cat([model(row) for row in rows.unsqueeze(1)])
    torch.testing.assert_close(model(rows), alone)  # no statistics of the batch
    assert_same(copied(model.state_dict()), before)
    assert model.training
    assert not any(block.training for block in model.blocks)


def test_figures_of_the_layers() -> None:
    model = make(order="successive", plastic_updates=2)
    update = HebbianUpdate(model)
    model(fields(4, 0))
    update.step()
    first, second = (layers(model)[index] for index in (0, 1))
    with torch.no_grad():
        second.weight *= 1.0 / second.norms.unsqueeze(1)
        second.weight[0] *= 1.011
        second.weight[1] *= 1.009
    second.refresh()
    found = hebbian_figures(nn.ModuleDict({"net": model}))
    assert list(found) == ["net.blocks.0.layer", "net.blocks.1.layer"]
    one, other = found.values()
    assert (one.kernels, one.updates, one.plastic) == (7, 1, True)
    assert (other.kernels, other.updates, other.plastic) == (11, 0, False)
    assert (one.converged, other.converged) == (0, 10)
    norms = first.weight.flatten(1).norm(dim=1)
    assert one.norms[0.0] == pytest.approx(float(norms.min()))
    assert one.norms[0.5] == pytest.approx(float(norms.median()))
    assert one.norms[1.0] == pytest.approx(float(norms.max()))
    expected = 0.02 * (float(second.norms.max()) - 1.0) ** 0.5
    assert other.learning_rates[1.0] == pytest.approx(expected, rel=1e-3)


def largest_norm(name: str, **options: Any) -> float:
    """After 300 updates on three clouds, one after the other; two of five kernels have no label."""
    rule = {"name": name, "options": RULES[name]}
    model = make((6,), blocks=[{"kernels": 5, "rule": rule, "eta": 0.1, **options}])
    update = HebbianUpdate(model)
    for number in range(300):
        labels = torch.full((12,), number // 100)
        noise = torch.randn(12, 6, generator=generator(number))
        with update.recording(labels):
            model(noise + 2.0 * torch.eye(6)[labels])
        update.step()
    return float(layers(model)[0].norms.max())


@pytest.mark.parametrize("name", RULES)
def test_no_rule_diverges_from_its_first_weights(name: str) -> None:
    assert largest_norm(name) < (2.0 if name != "instar" else 5.0)  # instar's are of patches


@pytest.mark.parametrize("rates", ["constant", "adaptive"])
def test_a_supervised_layer_diverges_from_no_radius(rates: str) -> None:
    """It did with Oja's decay, which lengthens a kernel where label and response disagree."""
    assert largest_norm("supervised_soft", radius=25.0, rates=rates) < 25.0 * 1.5
    assert layers(make(blocks=[{"kernels": 400, "rule": {"name": "supervised_soft"}}]))[
        0
    ].norms.mean() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    "order", [{}, {"plastic_updates": 3}, {"order": "successive", "plastic_updates": 3}]
)
@pytest.mark.parametrize("off", [0, 1])
def test_a_block_whose_learning_is_off_stays_and_is_waited_for_by_none(
    order: dict[str, Any], off: int
) -> None:
    blocks = [dict(CONVOLUTION), dict(DENSE)]
    blocks[off]["plastic"] = False
    model = make(blocks=blocks, **order)
    assert plasticity(model) == [off == 1, off == 0]
    before = copied(model.blocks[off].state_dict())
    update = HebbianUpdate(model)
    for number in range(5):
        model(fields(4, number))
        update.step()
    assert_same(copied(model.blocks[off].state_dict()), before)
    assert counts(model)[1 - off] == (3 if order else 5)
    resumed = make(blocks=blocks, seed=4, **order)
    resumed.load_state_dict(copied(model.state_dict()))
    assert plasticity(resumed) == plasticity(model)
