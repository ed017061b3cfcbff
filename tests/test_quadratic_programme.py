"""The programmes of gradient projection, against brute force over all active sets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from insitu.strategies.gem import multipliers
from insitu.strategies.gradient_stack import GradientStack
from insitu.strategies.half_space import project
from insitu.strategies.quadratic_programme import ENUMERATED, solve
from learning import generator

Matrix = npt.NDArray[np.float64]


def nearest(gradient: Matrix, references: Matrix, floors: Matrix) -> Matrix:
    """argmin |x - g|^2 with R x >= floors: of all sets of equations the nearest feasible point."""
    best, distance = gradient, np.inf
    for size in range(len(references) + 1):
        for chosen in combinations(range(len(references)), size):
            active = references[list(chosen)]
            missing = floors[list(chosen)] - active @ gradient
            x = gradient + np.linalg.pinv(active) @ missing if size else gradient
            if (references @ x >= floors - 1e-9).all():
                far = float(np.sum((x - gradient) ** 2))
                if far < distance:
                    best, distance = x, far
    assert distance < np.inf, "the programme has no feasible point"
    return best


def solved(gradient: Matrix, references: Matrix, floors: Matrix | None = None) -> Matrix:
    slopes = references @ gradient - (0.0 if floors is None else floors)
    found = solve(torch.from_numpy(references @ references.T)[None], torch.from_numpy(slopes)[None])
    return np.asarray(gradient + found[0].numpy() @ references)


def drawn(seed: int, k: int, size: int, kind: str) -> tuple[Matrix, Matrix]:
    """A gradient and k references that are independent, dependent, or partly zero or equal."""
    random = np.random.default_rng(seed)
    gradient, references = random.standard_normal(size), random.standard_normal((k, size))
    if kind == "conflicting":
        references -= 1.5 * gradient
    if kind == "duplicate":
        references[k // 2 :] = references[0] * random.uniform(0.1, 9.0, (k - k // 2, 1))
    if kind == "zero":
        references[0] = 0.0
    if kind == "low_rank":
        references = random.standard_normal((k, 2)) @ random.standard_normal((2, size))
    return gradient, references


KINDS = ["plain", "conflicting", "duplicate", "zero", "low_rank"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, ENUMERATED + 2))
def test_it_is_the_nearest_point_by_brute_force(kind: str, seed: int, k: int) -> None:
    gradient, references = drawn(seed, k, 12, kind)
    expected = nearest(gradient, references, np.zeros(k))
    np.testing.assert_allclose(solved(gradient, references), expected, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, ENUMERATED + 2))
def test_floors_shift_the_constraints(seed: int, k: int) -> None:
    gradient, references = drawn(seed, k, 12, "plain")
    floors = np.random.default_rng(seed + 1).standard_normal(k)
    expected = nearest(gradient, references, floors)
    np.testing.assert_allclose(solved(gradient, references, floors), expected, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [ENUMERATED, ENUMERATED + 1, 20, 50])
def test_many_constraints_hold_and_only_active_ones_pull(kind: str, k: int) -> None:
    """The Karush-Kuhn-Tucker conditions: they say that it is the optimum."""
    gradient, references = drawn(k, k, 200, kind)
    gram, slopes = references @ references.T, references @ gradient
    v = solve(torch.from_numpy(gram)[None], torch.from_numpy(slopes)[None])[0].numpy()
    products = gram @ v + slopes
    scale = np.linalg.norm(gradient) * np.linalg.norm(references, axis=1)
    assert (v >= 0).all()
    assert (products >= -1e-9 * scale).all()
    assert (np.abs(v * products) <= 1e-8 * np.linalg.norm(gradient) ** 2).all()


def test_problems_of_a_batch_are_solved_by_themselves() -> None:
    draws = [drawn(seed, 4, 10, KINDS[seed % len(KINDS)]) for seed in range(8)]
    grams = torch.stack([torch.from_numpy(r @ r.T) for _, r in draws])
    slopes = torch.stack([torch.from_numpy(r @ g) for g, r in draws])
    for found, gram, slope in zip(solve(grams, slopes), grams, slopes, strict=True):
        torch.testing.assert_close(found, solve(gram[None], slope[None])[0])


@pytest.mark.parametrize("k", [2, ENUMERATED + 1])
def test_what_is_not_a_number_is_answered_with_that(k: int) -> None:
    gradient, references = drawn(0, k, 10, "plain")
    references[1, 3] = np.nan
    found = solve(
        torch.from_numpy(references @ references.T)[None],
        torch.from_numpy(references @ gradient)[None],
    )
    assert found.isnan().any()


def pieces(flat: Tensor) -> list[Tensor]:
    """A vector as the tensors of a small network."""
    return [part.clone() for part in (flat[:600].view(20, 30), flat[600:605], flat[605:])]


@pytest.mark.parametrize("per", ["network", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 5), near=st.sampled_from([0.0, 1e-3]))
def test_projected_gradients_agree_with_every_reference(
    dtype: torch.dtype, per: str, seed: int, k: int, near: float
) -> None:
    """Dot products are -1e-6 at least, also where references are almost the same."""
    random = generator(seed)
    flat = torch.randn(k + 1, 5000, generator=random, dtype=torch.float64)
    flat[1:] -= flat[0] * torch.rand(k, 1, generator=random, dtype=torch.float64)
    if near:
        flat[2:] = flat[1] + near * flat[2:]
    rows = [pieces(row.to(dtype)) for row in flat]
    stack = GradientStack(rows[0], "tensor" if per == "tensor" else "network")
    stack.reserve(k + 1)
    for number, row in enumerate(rows):
        stack.write(number, row)
    weights = multipliers(stack.gram(), 0.0)
    ones = torch.ones_like(weights[:, :1])
    found = stack.sums(torch.cat((ones, weights), 1))
    groups = [[0, 1, 2]] if per == "network" else [[0], [1], [2]]
    for group in groups:
        x = torch.cat([found[i].flatten().double() for i in group])
        g = torch.cat([rows[0][i].flatten().double() for i in group])
        for row in rows[1:]:
            r = torch.cat([row[i].flatten().double() for i in group])
            assert x @ r >= -1e-6 * g.norm() * r.norm()


def test_the_margin_is_the_least_weight_and_keeps_the_constraints() -> None:
    for seed in range(20):
        gradient, references = drawn(seed, 3, 10, "conflicting")
        rows = np.concatenate((gradient[None], references))
        weights = multipliers(torch.from_numpy(rows @ rows.T)[None], 0.5)[0].numpy()
        assert (weights >= 0.5).all()
        x = gradient + weights @ references
        assert (references @ x >= -1e-9).all()
        slack = (weights - 0.5) * (references @ x)
        np.testing.assert_allclose(slack, 0.0, atol=1e-8)


def test_a_gradient_that_agrees_is_left_alone_whatever_the_margin() -> None:
    rows = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert not multipliers((rows @ rows.T)[None], 0.5).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), floor=st.sampled_from([None, -0.5, 0.5]))
def test_one_constraint_in_closed_form(dtype: torch.dtype, seed: int, floor: float | None) -> None:
    random = generator(seed)
    g = torch.randn(3000, generator=random, dtype=torch.float64).to(dtype)
    r = (torch.randn(3000, generator=random, dtype=torch.float64) - 0.3 * g).to(dtype)
    gradients, floors = pieces(g), None
    if floor is not None:
        floors = torch.tensor([floor * float(r.double().square().sum())], dtype=torch.float64)
    project(gradients, pieces(r), "network", floors=floors)
    found = torch.cat([part.flatten() for part in gradients]).double()
    wanted = np.zeros(1) if floors is None else floors.numpy()
    expected = nearest(g.double().numpy(), r.double().numpy()[None], wanted)
    scale = float(g.double().norm() * r.double().norm())
    assert float(found @ r.double() - wanted[0]) >= -1e-6 * scale
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(found.numpy(), expected, atol=tolerance)


def test_each_tensor_is_projected_by_itself() -> None:
    g = [torch.tensor([-1.0, 2.0]), torch.tensor([3.0])]
    r = [torch.tensor([1.0, 0.0]), torch.tensor([5.0])]
    amounts = project(g, [part.clone() for part in r], "tensor")
    assert amounts.tolist() == [1.0, 0.0]
    assert [part.tolist() for part in g] == [[0.0, 2.0], [3.0]]
    g = [torch.tensor([-1.0, 2.0]), torch.tensor([3.0])]
    assert project(g, r, "network").tolist() == [0.0], "together they agree"


def test_a_reference_of_zero_changes_nothing_and_one_that_is_no_number_shows() -> None:
    g = [torch.tensor([-1.0, 2.0])]
    assert project(g, [torch.zeros(2)], "network").tolist() == [0.0]
    floors = torch.ones(1, dtype=torch.float64)
    assert project(g, [torch.zeros(2)], "network", floors=floors).tolist() == [0.0]
    assert g[0].tolist() == [-1.0, 2.0]
    project(g, [torch.tensor([torch.nan, 1.0])], "network")
    assert not g[0].isfinite().all()


@pytest.mark.parametrize("per", ["network", "tensor"])
def test_the_stack_multiplies_and_sums_what_was_written(per: str) -> None:
    """More columns than are worked on at once, and fewer rows than there once were."""
    shapes = [(40, 1000), (3,), (20_000,)]
    random = generator(0)
    rows = [[torch.randn(shape, generator=random) for shape in shapes] for _ in range(3)]
    stack = GradientStack(rows[0], "tensor" if per == "tensor" else "network")
    stack.reserve(5)
    stack.reserve(3)
    for number, row in enumerate(rows):
        stack.write(number, row)
    flat = [torch.stack([row[i].flatten().double() for row in rows]) for i in range(3)]
    grams = torch.stack([part @ part.T for part in flat])
    weights = torch.randn(stack.groups, 3, generator=random, dtype=torch.float64)
    expected = grams.sum(0, keepdim=True) if per == "network" else grams
    torch.testing.assert_close(stack.gram(), expected, rtol=1e-12, atol=1e-12 * 60_000)
    for i, found in enumerate(stack.sums(weights)):
        of_group = weights[0 if per == "network" else i]
        wanted = (of_group @ flat[i]).view(shapes[i]).float()
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
