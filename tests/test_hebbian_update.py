"""When Hebbian layers record and move, what their state holds, and what cannot harm them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hebbian import RULES, layer, rows_for
from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock, pooling
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.learning_rates import AdaptiveRates, ConstantRates, LinearRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.padding import pad
from insitu.layers.rules import competition
from insitu.layers.rules.softhebb import SoftHebb
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.triangle import Triangle
from insitu.layers.update import HebbianUpdate
from learning import assert_same, copied, generator

DIMENSIONS = [0, 1, 2, 3]


def block(dimensions: int = 2, seed: int = 0) -> HebbianBlock:
    made: Any = layer(dimensions, seed=seed, **({"padding": 1} if dimensions else {}))
    pool = pooling("max", dimensions, 2) if dimensions else None
    return HebbianBlock(made, power=0.7, pool=pool)


def network(seed: int = 0) -> nn.Sequential:
    """Two blocks, the second fully connected."""
    last = layer(0, channels=45, kernels=6, seed=seed + 1)
    assert isinstance(last, HebbianLinear)
    return nn.Sequential(block(2, seed), nn.Flatten(), HebbianBlock(last))


def run(net: nn.Module, first: int, count: int) -> list[Tensor]:
    update = HebbianUpdate(net)
    outputs = []
    for number in range(first, first + count):
        outputs.append(net(torch.randn(4, 2, 6, 7, generator=generator(number))))
        update.step()
    return outputs


def recorded(made: HebbianLayer) -> bool:
    return bool(made.recorded_direction.any())


# --- when it moves


@pytest.mark.parametrize("off", ["plastic", "recording", "training"])
def test_a_layer_records_only_where_it_may_learn(off: str) -> None:
    made = layer(2)
    setattr(made, off, False)
    expected = made.weight.clone()
    made(rows_for(made))
    assert not recorded(made)
    made.apply_update()
    assert torch.equal(made.weight, expected)
    assert made.updates == 0
    setattr(made, off, True)
    made(rows_for(made))
    assert recorded(made)


def test_what_was_recorded_is_followed_once() -> None:
    made = layer(2)
    update = HebbianUpdate(made)
    made(rows_for(made))
    before = made.weight.clone()
    update.step()
    after = made.weight.clone()
    assert not torch.equal(before, after)
    update.step()
    assert torch.equal(made.weight, after)
    assert made.updates == 1


def test_discarded_directions_are_not_followed() -> None:
    made = layer(2)
    update = HebbianUpdate(made)
    made(rows_for(made))
    update.discard()
    before = copied(made.state_dict())
    update.step()
    assert_same(copied(made.state_dict()), before)


def test_a_layer_frozen_between_forward_and_update_stays_where_it_is() -> None:
    made = layer(2)
    update = HebbianUpdate(made)
    made(rows_for(made))
    before = made.weight.clone()
    made.plastic = False
    update.step()
    made.plastic = True
    update.step()
    assert torch.equal(made.weight, before)


def test_the_last_recording_forward_pass_counts() -> None:
    one, other = layer(2), layer(2)
    one(rows_for(one, seed=1))
    for seed in (2, 1):
        other(rows_for(other, seed=seed))
    assert torch.equal(one.recorded_direction, other.recorded_direction)


def test_only_forward_passes_inside_recording_record() -> None:
    net = network()
    update = HebbianUpdate(net, record_always=False)
    x = torch.randn(4, 2, 6, 7, generator=generator(0))
    before = copied(net.state_dict())
    net(x)
    update.step()
    assert_same(copied(net.state_dict()), before)  # nor have running statistics moved
    with update.recording():
        net(x)
    expected = [made.recorded_direction for made in update.layers]
    net(x * 2)  # a reference gradient, say
    assert all(
        torch.equal(made.recorded_direction, direction)
        for made, direction in zip(update.layers, expected, strict=True)
    )
    assert all(direction.any() for direction in expected)
    update.step()
    torch.testing.assert_close(net[0].standardisation.running_mean, 0.1 * x.mean(dim=(0, 2, 3)))


def test_recording_ends_with_an_exception_too() -> None:
    made = layer(0, by="supervised_soft")
    update = HebbianUpdate(made, record_always=False)
    with pytest.raises(ZeroDivisionError), update.recording(torch.zeros(4, dtype=torch.int64)):
        raise ZeroDivisionError
    assert not made.recording
    assert made.labels is None


def test_a_gain_multiplies_the_update_of_its_kernel() -> None:
    plain, made = layer(2), layer(2)
    made.gain = torch.tensor([0.0, 0.5, 1.0, 1.0, 2.0])
    before = made.weight.clone()
    for each in (plain, made):
        each(rows_for(each))
        each.apply_update()
    expected = before + made.gain.view(-1, 1, 1, 1) * (plain.weight - before)
    torch.testing.assert_close(made.weight, expected)
    assert torch.equal(made.weight[0], before[0])


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_no_graph_in_training_and_a_differentiable_layer_in_evaluation(dimensions: int) -> None:
    made = layer(dimensions)
    x = rows_for(made).requires_grad_()
    assert not made(x).requires_grad
    assert not any(parameter.requires_grad for parameter in made.parameters())
    made.eval()(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_the_step_is_one_graph_for_the_compiler() -> None:
    """No look at the device, no growing Python: what capture and compilation need."""
    plain, made = network(), network()
    update = HebbianUpdate(made)

    @torch.compile(backend="eager", fullgraph=True)
    def whole_step(x: Tensor) -> Tensor:
        features = made(x)
        update.step()
        return features  # type: ignore[no-any-return]

    expected = run(plain, 0, 2)
    for number in range(2):
        found = whole_step(torch.randn(4, 2, 6, 7, generator=generator(number)))
        torch.testing.assert_close(found, expected[number])
    torch.testing.assert_close(made.state_dict(), plain.state_dict())


# --- state


def test_a_loaded_network_goes_on_bit_by_bit() -> None:
    went_on, resumed = network(), network(seed=7)
    run(went_on, 0, 3)
    resumed.load_state_dict(copied(went_on.state_dict()))
    for one, other in zip(run(went_on, 3, 3), run(resumed, 3, 3), strict=True):
        assert torch.equal(one, other)
    assert_same(copied(went_on.state_dict()), copied(resumed.state_dict()))


def test_a_load_brings_the_rates_of_its_weights_and_forgets_what_was_recorded() -> None:
    made, other = layer(2), layer(2, seed=3, radius=9.0)
    made(rows_for(made))
    state = copied(made.state_dict()) | {"weight": other.weight.clone()}
    made.load_state_dict(state)  # weights from elsewhere: the rates beside them are not theirs
    assert torch.equal(made.learning_rates_in_force, other.learning_rates_in_force)
    assert torch.equal(made.norms, other.norms)
    made.apply_update()
    assert torch.equal(made.weight, other.weight)


def test_another_precision_has_rates_of_its_own() -> None:
    made = layer(2).double()
    expected = 0.1 * (made.weight.flatten(1).norm(dim=1) - 1.0).abs().sqrt()
    torch.testing.assert_close(made.learning_rates_in_force, expected, rtol=1e-9, atol=0.0)


def test_a_state_of_another_width_is_refused_by_name() -> None:
    wide = nn.Sequential(layer(2, kernels=8))
    with pytest.raises(OperatorError, match=r"layer '0' has weights of \[5, 2, 3, 3\].*\[8, 2"):
        wide.load_state_dict(nn.Sequential(layer(2)).state_dict())


def test_a_state_that_is_not_finite_is_refused() -> None:
    made = layer(2)
    state = copied(made.state_dict())
    state["weight"][0, 0, 0, 0] = math.nan
    before = made.weight.clone()
    with pytest.raises(OperatorError, match="not finite"):
        made.load_state_dict(state)
    assert torch.equal(made.weight, before)


# --- bad input


HARMLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "one NaN": lambda x: x.index_fill(0, torch.tensor([1]), math.nan),
    "one infinity": lambda x: x.index_fill(0, torch.tensor([1]), math.inf),
    "overflow": lambda x: x * 3e37,
    "no rows": lambda x: x[:0],
}


#: to instar zeros are something: a kernel is drawn to what it wins
HARMLESS_TO = [
    (rule, what) for rule in RULES for what in HARMLESS if (rule, what) != ("instar", "zeros")
]


@pytest.mark.parametrize(("name", "what"), HARMLESS_TO)
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_what_teaches_nothing_leaves_the_layer_as_it_was(
    dimensions: int, name: str, what: str
) -> None:
    made = layer(dimensions, by=name, **({"padding": 1} if dimensions else {}))
    rows = HARMLESS[what](rows_for(made))
    before = copied(made.state_dict())
    made(rows, torch.zeros(len(rows), dtype=torch.int64))
    made.apply_update()
    if what != "overflow":  # which potentials overflow is the rule's affair
        assert_same(copied(made.state_dict()), before)
    assert torch.isfinite(made.weight).all()
    made(rows_for(made), torch.zeros(4, dtype=torch.int64))
    made.apply_update()
    assert torch.isfinite(made.weight).all()
    assert not torch.equal(made.weight, before["weight"])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_constant_input_and_single_rows_keep_weights_finite(dimensions: int, name: str) -> None:
    made = layer(dimensions, by=name, **({"padding": 1} if dimensions else {}))
    for rows in (torch.ones_like(rows_for(made)), rows_for(made)[:1], rows_for(made)):
        made(rows, torch.zeros(len(rows), dtype=torch.int64))
        made.apply_update()
        assert torch.isfinite(made.weight).all()
    assert made.updates == 3


@pytest.mark.parametrize("what", ["one NaN", "one infinity", "no rows"])
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_bad_batches_leave_a_block_as_it_was(dimensions: int, what: str) -> None:
    made = block(dimensions)
    before = copied(made.state_dict())
    made(HARMLESS[what](rows_for(made.layer)))
    HebbianUpdate(made).step()
    del before["standardisation.num_batches_tracked"]
    assert_same({key: copied(made.state_dict())[key] for key in before}, before)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_a_block_learns_from_a_single_row(dimensions: int) -> None:
    made = block(dimensions)
    assert torch.isfinite(made(rows_for(made.layer)[:1])).all()
    HebbianUpdate(made).step()
    assert made.layer.updates == 1
    assert torch.isfinite(made.layer.weight).all()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("each_its_own", [False, True])
def test_constant_images_do_not_harm_a_block(name: str, each_its_own: bool) -> None:
    """Standardised they are zeros, or as many constants as there are rows; both are finite."""
    inner: Any = layer(2, by=name, padding=1)
    made = HebbianBlock(inner, power=0.7, pool=pooling("max", 2, 2))
    update = HebbianUpdate(made)
    level = torch.arange(4.0).view(4, 1, 1, 1) if each_its_own else torch.ones(4, 1, 1, 1)
    labels = torch.zeros(4, dtype=torch.int64)
    for rows in (level.expand(4, 2, 6, 7), torch.zeros(4, 2, 6, 7), rows_for(inner)):
        before = inner.weight.clone()
        with update.recording(labels):
            assert torch.isfinite(made(rows.contiguous())).all()
        update.step()
        assert torch.isfinite(inner.weight).all()
        assert torch.isfinite(made.state_dict()["standardisation.running_var"]).all()
    assert not torch.equal(inner.weight, before)  # it goes on to learn


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: layer(2)(torch.zeros(1, 3, 6, 6)), r"2 channels in 2-D was given \[1, 3, 6, 6\]"),
    (lambda: layer(2)(torch.zeros(2, 6, 6)), "was given"),
    (lambda: layer(0)(torch.zeros(1, 3)), r"2 inputs was given \[1, 3\]"),
    (lambda: layer(2, size=5, padding=1)(torch.zeros(1, 2, 6, 2)), "kernel of 5.*2 padded by 1"),
    (lambda: layer(1, dilation=3)(torch.zeros(1, 2, 6)), "kernel of 7"),
    (lambda: layer(2, padding=2)(torch.zeros(1, 2, 6, 2)), "reflect padding .* less 1"),
    (lambda: pad(torch.zeros(1, 1, 2), [3], "circular"), "circular padding"),
    (lambda: layer(2, groups=2, kernels=5), "2 groups do not divide 2 channels and 5"),
    (lambda: layer(2, groups=3, kernels=6), "3 groups do not divide 2"),
    (lambda: layer(2, groups=0), "0 groups"),
    (lambda: layer(2, kernels=0), "0 channels"),
    (lambda: layer(0, kernels=0), "0 features"),
    (lambda: layer(2, size=0), "kernel_size .* is 0"),
    (lambda: layer(2, stride=[1, 1, 1]), "stride .* or 2 of them"),
    (lambda: layer(2, radius=0.0), "radius"),
    (lambda: layer(0, by="krotov_hopfield", kernels=2), "rank is 3"),
    (lambda: layer(0, by="supervised_soft")(torch.zeros(1, 2)), "needs labels, and has none"),
    (
        lambda: layer(0, by="supervised_soft")(
            torch.zeros(1, 2), torch.zeros(2, dtype=torch.int64)
        ),
        r"int64 of \[2\]",
    ),
    (lambda: layer(0, by="supervised_soft")(torch.zeros(1, 2), torch.zeros(1)), "float32"),
    (lambda: AdaptiveRates(0.0), "learning rate"),
    (lambda: ConstantRates(math.nan), "learning rate"),
    (lambda: LinearRates(0.1, last_update=0), "after 0 updates"),
    (lambda: Triangle(0.0), "power"),
    (lambda: pooling("max", 2, 2, padding=2), "padding 2"),
    (lambda: pooling("max", 4, 2), "4-D"),
]


@pytest.mark.parametrize(("act", "message"), REFUSED)
def test_what_cannot_work_is_refused(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        act()


# --- the parts


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("many", [False, True])
def test_of_equal_kernels_the_first_wins(layout: torch.memory_format, many: bool) -> None:
    u = torch.randint(0, 3, (9, 7, 64, 48 if many else 3), generator=generator(0)).float()
    u = u.contiguous(memory_format=layout)
    first = (u == u.amax(1, keepdim=True)).int().cumsum(1).eq(1) & (u == u.amax(1, keepdim=True))
    shares = torch.softmax(0.3 * u, dim=1)
    torch.testing.assert_close(competition.one_hot(u), first.float())
    torch.testing.assert_close(
        competition.signed_shares(u, 0.3), torch.where(first, shares, -shares)
    )
    torch.testing.assert_close(competition.soft_shares(u, 0.3), shares)


def test_half_precision_comes_to_the_same_end() -> None:
    u = torch.randn(3, 5, 4, 4, generator=generator(0)).bfloat16()
    for found, expected in (
        (competition.signed_shares(u, 0.5), competition.signed_shares(u.float(), 0.5)),
        (competition.soft_shares(u, 0.5), competition.soft_shares(u.float(), 0.5)),
        (competition.one_hot(u), competition.one_hot(u.float())),
    ):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("power", [0.7, 1.0, 2.0])
def test_triangle(power: float) -> None:
    u = torch.randn(3, 5, 4, generator=generator(0), dtype=torch.float64)
    before = u.clone()
    expected = (u - u.mean(1, keepdim=True)).clamp(min=0.0) ** power
    torch.testing.assert_close(Triangle(power)(u), expected)
    assert torch.equal(u, before)
    torch.autograd.gradcheck(Triangle(2.0), u.requires_grad_())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_standardisation_is_batch_norm_without_weights(dimensions: int) -> None:
    theirs = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    one, other = BatchStandardisation(2), theirs(2, affine=False)
    for seed in range(3):
        x = torch.randn(4, 2, *[3] * dimensions, generator=generator(seed)) * 3.0 + 1.0
        assert torch.equal(one(x), other(x))
        HebbianUpdate(one).step()
    assert_same(copied(dict(one.state_dict())), copied(dict(other.state_dict())))
    assert torch.equal(one.eval()(x), other.eval()(x))


def test_a_larger_temperature_lets_more_kernels_share() -> None:
    u = torch.tensor([[2.0, 1.0, 0.0]])
    cold, hot = SoftHebb(inverse_temperature=9.0), SoftHebb(inverse_temperature=0.1)
    assert cold.activities(u, None)[0, 0] > 0.99
    assert hot.activities(u, None)[0, 0] < 0.4
