"""Gradient projection without its projection, its programme, its floors, its tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from insitu.strategies.half_space import products, project
from mutations.base import Mutation, constantly

A_GEM = "tests/test_strategy_a_gem.py"
GEM = "tests/test_strategy_gem.py"
GEC = "tests/test_strategy_gec.py"
PROGRAMME = "tests/test_quadratic_programme.py"


def _unchanged(gradients: Any, reference: Any, per: Any, **_: Any) -> Tensor:
    return torch.zeros_like(products(gradients, reference, per))


def _as_network(gradients: Any, reference: Any, per: Any, **options: Any) -> Tensor:
    return project(gradients, reference, "network", **options)


def _without_floors(gradients: Any, reference: Any, per: Any, **_: Any) -> Tensor:
    return project(gradients, reference, per)


def _zeros(gram: Tensor, linear: Tensor) -> Tensor:
    return torch.zeros_like(linear)


def _unconstrained(gram: Tensor, linear: Tensor) -> Tensor:
    return torch.linalg.pinv(gram).matmul(-linear.unsqueeze(-1)).squeeze(-1)


def _with_ridge(gram: Tensor, linear: Tensor) -> Tensor:
    """As the authors' code and libraries do it."""
    from insitu.strategies.quadratic_programme import solve

    return solve(gram + 1e-3 * torch.eye(gram.shape[-1], dtype=gram.dtype), linear)


def _each_by_itself(gram: Tensor, linear: Tensor) -> Tensor:
    return -linear.clamp(max=0.0) / gram.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30)


def _no_margin(gram: Tensor, margin: float) -> Tensor:
    from insitu.strategies.quadratic_programme import solve

    return solve(gram[:, 1:, 1:], gram[:, 1:, 0])


_PROJECT = "insitu.strategies.memory_constraint:project"
_SOLVE = "insitu.strategies.gem:solve"

MUTATIONS = {
    "a_gem: not projected": Mutation(_PROJECT, _unchanged, A_GEM),
    "layerwise_a_gem: projected as one vector": Mutation(_PROJECT, _as_network, A_GEM),
    "a_gem: nothing remembered": Mutation(
        "insitu.strategies.memory_constraint:MemoryConstraint.observe", constantly(None), A_GEM
    ),
    "a_gem: held to the fresh tasks too": Mutation(
        "insitu.strategies.memory_constraint:MemoryConstraint.augment",
        lambda self, batch: batch,
        A_GEM,
    ),
    "gem: not projected": Mutation(_SOLVE, _zeros, GEM),
    "gem: multipliers may be negative": Mutation(_SOLVE, _unconstrained, GEM),
    "gem: one task after the other": Mutation(_SOLVE, _each_by_itself, GEM),
    "gem: a ridge on the diagonal": Mutation(_SOLVE, _with_ridge, GEM),
    "gem: no margin": Mutation("insitu.strategies.gem:multipliers", _no_margin, GEM),
    "gem: held to the fresh tasks too": Mutation(
        "insitu.strategies.gem:GEM.augment", lambda self, batch: batch, GEM
    ),
    "gem: nothing remembered": Mutation(
        "insitu.strategies.gem:GEM._remember", constantly(None), GEM
    ),
    "gec: not projected": Mutation("insitu.strategies.gec:project", _unchanged, GEC),
    "gec: floors of zero": Mutation("insitu.strategies.gec:project", _without_floors, GEC),
    "quadratic programme: no active set is tried": Mutation(
        "insitu.strategies.quadratic_programme:_enumerated", _zeros, PROGRAMME
    ),
    "quadratic programme: no reference enters": Mutation(
        "insitu.strategies.quadratic_programme:_active_sets", _zeros, PROGRAMME
    ),
}
