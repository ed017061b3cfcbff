"""Models: one contract for all of the catalogue, and what each kind adds to it."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from insitu.component import catalogue
from insitu.errors import OperatorError
from insitu.models.autoencoder import Autoencoder
from insitu.models.build import build_model
from insitu.models.conditional_flow import ConditionalFlow
from insitu.models.conv_levels import halved_sizes
from insitu.models.hebbian import Hebbian
from insitu.models.random_patches import RandomPatches

Case = tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]
CASES: list[Case] = [
    ("mlp", {"hidden": [8, 6]}, (3, 5), (2, 4)),
    ("mlp", {"hidden": [], "layer_norm": True}, (), (7,)),
    ("mlp", {"hidden": [8, 8], "activation": "tanh", "layer_norm": True}, (4,), ()),
    ("mlp_autoencoder", {"hidden": [12], "latent": 3}, (2, 5), (2, 5)),
    ("conv_autoencoder_2d", {"channels": [4, 6], "latent": 5}, (2, 9, 12), (2, 9, 12)),
    ("conv_autoencoder_2d", {"channels": [4], "latent": None, "periodic": True}, (7, 5), (7, 5)),
    ("conv_autoencoder_2d", {"channels": [3, 3, 3], "latent": 2}, (1, 1, 3), (1, 1, 3)),
    ("conv_autoencoder_3d", {"channels": [3, 4], "latent": 5}, (2, 5, 4, 7), (2, 5, 4, 7)),
    ("conv_autoencoder_3d", {"channels": [3], "latent": None, "periodic": True}, (3, 6, 5), (3, 6, 5)),  # noqa: E501
    ("conv_classifier", {"channels": [4, 5]}, (3, 9, 7), (10,)),
    ("conv_classifier", {"channels": [4], "hidden": [6], "activation": "silu"}, (8, 8), (2, 3)),
    ("resnet", {"width": 4}, (3, 9, 10), (5,)),
    ("resnet", {"width": 3}, (8, 8), (2, 2)),
    ("random_patches", {"filters": 6, "patch": 3, "patches": 90, "patches_per_image": 15}, (3, 8, 9), (4,)),  # noqa: E501
    ("random_patches", {"filters": 5, "patch": 2, "patches": 60, "activation": "triangle"}, (6, 6), (2,)),  # noqa: E501
    ("conditional_flow", {"hidden": [8], "bins": 4}, (3,), (1,)),
    ("hebbian", {"blocks": [{"kernels": 9, "kernel_size": 3, "pool": {}}, {"kernels": 20}]}, (2, 8, 6), (5,)),  # noqa: E501
    ("hebbian", {"blocks": [{"kernels": 30}], "normalise_features": False}, (6,), (2, 2)),
    ("hebbian", {"network": "cifar10", "width": 0.05, "padding_mode": "circular"}, (8, 8), (8, 8)),
]  # fmt: skip
AUTOENCODERS = [case for case in CASES if "autoencoder" in case[0]]


def make(case: Case, seed: int = 0) -> nn.Module:
    name, options, input_shape, output_shape = case
    model = build_model(name, options, input_shape, output_shape, seed=seed)
    if isinstance(model, RandomPatches):  # what it is made from are the first rows it sees
        model.fit(rows_of(input_shape, 9, seed=11))
    if isinstance(model, Hebbian):  # its layers learn without gradient, by the batch as a whole
        model.eval()
    if isinstance(model, ConditionalFlow):  # at first the identity, whatever the seed
        random = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=random)
    return model


def rows_of(shape: tuple[int, ...], rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


def test_every_model_is_in_the_cases() -> None:
    assert set(catalogue("insitu.models")) == {name for name, *_ in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_shapes_and_gradients(case: Case, rows: int) -> None:
    model, fields = make(case), rows_of(case[2], rows)
    before = fields.clone()
    outputs = model(fields)
    assert outputs.shape == (rows, *case[3])
    assert torch.equal(fields, before)
    if rows:
        torch.autograd.backward(outputs.square().sum())
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_do_not_mix(case: Case) -> None:
    model, fields = make(case), rows_of(case[2], 5)
    alone = torch.cat([model(row) for row in fields.unsqueeze(1)])
    torch.testing.assert_close(model(fields), alone)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_round_trip_is_bit_exact(case: Case) -> None:
    model, other, fields = make(case, 1), make(case, 2), rows_of(case[2], 3)
    assert not torch.equal(model(fields), other(fields))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(fields), other(fields))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_depend_on_the_seed_alone(case: Case) -> None:
    first = make(case, 7)
    torch.manual_seed(123)
    torch.rand(5)
    state = torch.random.get_rng_state()
    again = make(case, 7)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was moved"
    for mine, yours in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, yours)
    fields = rows_of(case[2], 2)
    assert torch.equal(first(fields), first(fields))
    assert torch.equal(torch.random.get_rng_state(), state), "forward drew random numbers"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtypes(case: Case) -> None:
    model, fields = make(case), rows_of(case[2], 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(fields)
    # a density of a few numbers would be wrong in its first digits
    is_flow = isinstance(model, ConditionalFlow)
    assert outputs.dtype == (torch.float32 if is_flow else torch.bfloat16)
    torch.autograd.backward(outputs.float().sum())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    assert make(case).double()(fields.double()).dtype == torch.float64


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_input_shape_is_refused_with_both_shapes(case: Case) -> None:
    with pytest.raises(OperatorError, match=rf"model {case[0]} was made.*\(2, 97\)"):
        make(case)(torch.zeros(2, 97))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_lowers_the_loss(case: Case) -> None:
    model, fields = make(case), rows_of(case[2], 8)
    targets = fields if case[2] == case[3] else rows_of(case[3], 8, seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = (model(fields) - targets).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_compiled_model_agrees_with_the_eager_one() -> None:
    case = CASES[9]
    model, fields = make(case), rows_of(case[2], 3)
    torch.testing.assert_close(torch.compile(model)(fields), model(fields), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_model_traces_without_a_graph_break(case: Case) -> None:
    """What `torch.compile` needs, checked without its compiler."""
    model, fields = make(case), rows_of(case[2], 3)
    traced = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(fields), model(fields))
    torch.compiler.reset()


@pytest.mark.parametrize("case", AUTOENCODERS, ids=str)
def test_autoencoders_compose(case: Case) -> None:
    model, fields = make(case), rows_of(case[2], 3)
    assert isinstance(model, Autoencoder)
    latents = model.encode(fields)
    assert latents.shape == (3, *model.latent_shape)
    assert torch.equal(model(fields), model.decode(latents))
    assert torch.equal(model.inverse(latents), model.encode(model.decode(latents)))
    assert model.inverse(latents).shape == latents.shape
    with pytest.raises(OperatorError, match="latents"):
        model.decode(torch.zeros(3, 97))


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    levels=st.integers(1, 4),
    periodic=st.booleans(),
)
def test_every_size_comes_back(size: tuple[int, int], levels: int, periodic: bool) -> None:
    options = {"channels": [2] * levels, "latent": 2, "periodic": periodic}
    model = build_model("conv_autoencoder_2d", options, size, size, seed=0)
    assert model(torch.zeros(1, *size)).shape == (1, *size)


@pytest.mark.parametrize("name", ["conv_autoencoder_2d", "conv_autoencoder_3d"])
def test_periodic_padding_commutes_with_periodic_shifts(name: str) -> None:
    """A shift by whole strides of a periodic field shifts latent map and output alike."""
    shape = (1, 8, 12) if name.endswith("2d") else (1, 8, 4, 4)
    options = {"channels": [3, 4], "latent": None, "periodic": True}
    model = build_model(name, options, shape, shape, seed=0)
    assert isinstance(model, Autoencoder)
    fields = rows_of(shape, 2)
    shifted = fields.roll(4, dims=2)
    torch.testing.assert_close(model(shifted), model(fields).roll(4, dims=2))
    torch.testing.assert_close(model.encode(shifted), model.encode(fields).roll(1, dims=2))
    plain = build_model(name, options | {"periodic": False}, shape, shape, seed=0)
    assert not torch.allclose(plain(shifted), plain(fields).roll(4, dims=2), atol=1e-4)


@given(spatial=st.lists(st.integers(1, 300), min_size=1, max_size=3), levels=st.integers(0, 5))
def test_halved_sizes_round_up(spatial: list[int], levels: int) -> None:
    sizes = halved_sizes(tuple(spatial), levels)
    assert sizes == [
        tuple(math.ceil(extent / 2**level) for extent in spatial) for level in range(levels + 1)
    ]


@pytest.mark.parametrize(
    ("name", "options", "input_shape", "output_shape", "message"),
    [
        ("reznet", {}, (3,), (3,), "models has no 'reznet'.*conv_classifier"),
        ("mlp", {"hiden": [3]}, (3,), (3,), "hiden: no such option"),
        ("mlp", {"hidden": [0]}, (3,), (3,), "greater than or equal to 1"),
        ("mlp", {"activation": "relo"}, (3,), (3,), "'relu', 'gelu', 'silu' or 'tanh'"),
        ("mlp_autoencoder", {}, (3,), (4,), r"takes, \[3\].*wants \[4\]"),
        ("conv_autoencoder_2d", {}, (3, 8, 8), (8, 8), r"takes, \[3, 8, 8\].*wants \[8, 8\]"),
        ("conv_autoencoder_2d", {}, (5,), (5,), r"shape \[5\]; allowed: 2 axes, or a channel"),
        ("conv_autoencoder_3d", {}, (5, 5), (5, 5), r"shape \[5, 5\]; allowed: 3 axes"),
        ("conv_autoencoder_2d", {"channels": []}, (5, 5), (5, 5), "channels.*at least 1"),
        ("conv_classifier", {}, (1, 3, 8, 8), (10,), r"shape \[1, 3, 8, 8\]; allowed: 2 axes"),
        ("collections:no", {}, (3,), (3,), "cannot be imported"),
        (f"{__name__}:raises", {}, (3,), (3,), "ZeroDivisionError"),
        (f"{__name__}:gives_a_list", {}, (3,), (3,), "returned list"),
        (f"{__name__}:gives_nothing_to_train", {}, (3,), (3,), "no parameter to train"),
    ],
)
def test_wrong_configuration_is_refused_by_name(
    name: str,
    options: dict[str, Any],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    message: str,
) -> None:
    with pytest.raises(OperatorError, match=message):
        build_model(name, options, input_shape, output_shape, seed=0)


def raises(input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> nn.Module:
    return nn.Linear(input_shape[0] // 0, output_shape[0])


def gives_a_list(input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> list[int]:
    return [*input_shape, *output_shape]


def gives_nothing_to_train(
    input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> nn.Module:
    return nn.Identity()


def own_model(input_shape: tuple[int, ...], output_shape: tuple[int, ...], *, bias: bool) -> Any:
    return nn.Linear(input_shape[0], output_shape[0], bias=bias)


def test_a_model_of_the_users_own() -> None:
    model = build_model(f"{__name__}:own_model", {"bias": False}, (3,), (2,), seed=0)
    assert [name for name, _ in model.named_parameters()] == ["weight"]


@pytest.mark.parametrize("name", ["conv_autoencoder_2d", "conv_autoencoder_3d"])
def test_deep_autoencoders_pass_the_signal_on_from_the_start(name: str) -> None:
    """With weights that shrink it, what comes out would hardly depend on what goes in."""
    shape = (2, 32, 32) if name.endswith("2d") else (2, 16, 16, 16)
    model = build_model(name, {"channels": [16, 16, 16]}, shape, shape, seed=0)
    fields = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(fields)
    # white noise averages out on the way; of torch's default weights 1e-8 of it would be left
    assert (outputs - outputs.mean(dim=0)).std() > 1e-4 * fields.std()
