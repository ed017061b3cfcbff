"""Regularisers without their essential term."""

from __future__ import annotations

import torch

from insitu.strategies.online_ewc import OnlineEWC
from insitu.strategies.path import PathIntegral
from insitu.strategies.rwalk import RiemannianWalk
from mutations.base import Mutation, constantly

_ANCHORED = "insitu.strategies.anchored:Anchored"
_SAMPLED = "insitu.strategies.sampled_importance:SampledImportance"
_PATH = "insitu.strategies.path:PathIntegral"


def _latest_only(self: OnlineEWC, latest: list[torch.Tensor]) -> None:
    """What was important to former tasks is forgotten."""
    self.consolidate(latest, self._weights_now())


def _without_a_path(self: PathIntegral, observation: object) -> None:
    self._tasks.add(0)
    if not self._path:
        self._begin()


def _without_the_score(self: RiemannianWalk) -> list[torch.Tensor]:
    largest = torch.stack([tensor.max() for tensor in self._running]).max()
    return [tensor / largest for tensor in self._running]


def _squares_of_sums(gradients: torch.Tensor, power: int) -> torch.Tensor:
    """As if the mean of a batch were squared."""
    return gradients.sum(0).abs() ** power


def _mutations() -> dict[str, Mutation]:
    found = {
        f"{name}: nothing is pulled to the anchor": Mutation(
            f"{target}.adjust_gradients", constantly(None), f"tests/test_{tests}.py"
        )
        for name, target, tests in (
            ("anchored", _ANCHORED, "anchored"),
            ("online_ewc", _ANCHORED, "strategy_online_ewc"),
            ("ewc", "insitu.strategies.ewc:EWC", "strategy_ewc"),
            ("si", _PATH, "strategy_si"),
            ("rwalk", _PATH, "strategy_rwalk"),
        )
    }
    found |= {
        f"{name}: nothing is consolidated": Mutation(
            f"{target}.end_task", constantly(None), f"tests/test_strategy_{name}.py"
        )
        for name, target in (
            ("online_ewc", _SAMPLED),
            ("ewc", _SAMPLED),
            ("mas", _SAMPLED),
            ("si", _PATH),
            ("rwalk", _PATH),
        )
    }
    return found


MUTATIONS = {
    **_mutations(),
    "anchored: the proximal step is left out": Mutation(
        f"{_ANCHORED}.adjust_weights", constantly(None), "tests/test_anchored.py"
    ),
    "ewc: only the last task counts": Mutation(
        "insitu.strategies.ewc:EWC._add_task", _latest_only, "tests/test_strategy_ewc.py"
    ),
    "online_ewc: only the last task counts": Mutation(
        f"{_SAMPLED}._add_task", _latest_only, "tests/test_strategy_online_ewc.py"
    ),
    "online_ewc: importance does not move without tasks": Mutation(
        f"{_SAMPLED}._move", constantly(None), "tests/test_strategy_online_ewc.py"
    ),
    "mas: importance does not move without tasks": Mutation(
        f"{_SAMPLED}._move", constantly(None), "tests/test_strategy_mas.py"
    ),
    "si: no path is added up": Mutation(
        f"{_PATH}.observe", _without_a_path, "tests/test_strategy_si.py"
    ),
    "rwalk: the score of the path is left out": Mutation(
        "insitu.strategies.rwalk:RiemannianWalk._importance_now",
        _without_the_score,
        "tests/test_strategy_rwalk.py",
    ),
    "fisher: sums are squared, not samples": Mutation(
        "insitu.strategies.per_sample_layers:_powers_over_rows",
        _squares_of_sums,
        "tests/test_fisher.py",
    ),
}
