"""What every kernel of a Hebbian layer does: how often it answers, how far it goes.

Read from a state, so from a trainer between two steps as well as from a checkpoint of one that is
long gone, without its model. Norms and learning rates stand in the state of the layer, all else in
that of the strategy `kernel_plasticity`; without it these columns are empty.

A change is always the mean of |change| over the weights of a kernel in one step, a_j in
`insitu.layers.kernel_plasticity`. Change and activation are those of the task in progress, or of
the last one where no step was made since it ended.

The budget is how much farther a kernel could go in a step than it does on average:

    cap         damped theta_j - mean of gain_j a_j, of protected kernels: the step is bounded
    threshold   theta_j - mean of a_j, of protected kernels: above it steps are damped; it is
                negative where they are on average
    lock        0, of protected kernels
    soft, off   none: a step is slowed or free, and never bounded; nor are unprotected kernels
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from insitu.errors import OperatorError
from insitu.strategies.kernel_plasticity import KernelPlasticityStrategy
from insitu.trainer import Trainer

#: what the state of a Hebbian layer holds and no other layer's does
_OF_A_LAYER = ("weight", "norms", "learning_rates_in_force", "updates")


@dataclass(frozen=True)
class Kernel:
    """One kernel at one moment; None is what nobody recorded.

    Args:
        kernel: its number in the layer, from 0.
        activation_share: images in which it was among the `top`, of all.
        change_mean_per_step, change_largest_per_step: that it would have made, before any gain.
        moved_mean_per_step: that it made, by the gains of the steps.
        norm: of its weights.
        learning_rate: in force, before any gain.
        gain: of the newest step, third factor included.
        importance: for tasks that ended, 0 to 1.
        protected: whether it is held back.
        theta_per_step: the change that its tasks made, what it is held to.
        budget_per_step: see above.
    """

    kernel: int
    activation_share: float | None
    change_mean_per_step: float | None
    change_largest_per_step: float | None
    moved_mean_per_step: float | None
    norm: float
    learning_rate: float
    gain: float | None
    importance: float | None
    protected: bool | None
    theta_per_step: float | None
    budget_per_step: float | None


#: the columns of a table, in order
COLUMNS = tuple(field.name for field in fields(Kernel))


@dataclass(frozen=True, eq=False)
class KernelTable:
    """All kernels of one layer at one moment, a column a figure.

    Args:
        layer: its name in the model.
        shape: of its weights, (kernels, *fan_in).
        updates: that the layer has had.
        mode: of its protection; None without one.
        images, steps: of the task in progress.
        tasks: that were consolidated.
        columns: name -> (kernels,) on the CPU, for those of `COLUMNS` that are known; NaN where
            a kernel has no such figure.
        last_task_moved_per_step: (kernels,) as `moved_mean_per_step`, of the last task that ended;
            None where none did.
    """

    layer: str
    shape: tuple[int, ...]
    updates: int
    mode: str | None
    images: int
    steps: int
    tasks: int
    columns: Mapping[str, Tensor]
    last_task_moved_per_step: Tensor | None = None

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """A row a kernel, in the order of the layer."""
        count = self.shape[0]
        lists: dict[str, list[Any]] = {
            name: [None if _is_nan(value) else value for value in self.columns[name].tolist()]
            if name in self.columns
            else [None] * count
            for name in COLUMNS
        }
        return tuple(Kernel(**{name: lists[name][row] for name in COLUMNS}) for row in range(count))

    def quantiles(self, shares: tuple[float, ...]) -> dict[str, dict[float, float]]:
        """Column -> share -> the value that this share of the kernels is not above.

        Only kernels that have the figure count; a column without any is left out.
        """
        wanted = torch.tensor(shares, dtype=torch.float64)
        found = {}
        for name, values in self.columns.items():
            known = values.double()[~values.double().isnan()]
            if name not in ("kernel", "protected") and len(known):
                found[name] = dict(zip(shares, torch.quantile(known, wanted).tolist(), strict=True))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {
            "layer": self.layer,
            "shape": list(self.shape),
            "updates": self.updates,
            "mode": self.mode,
            "images": self.images,
            "steps": self.steps,
            "tasks": self.tasks,
            "kernels": [vars(kernel) for kernel in self.kernels],
        }


def kernel_tables(
    model: Mapping[str, Any], strategies: Mapping[str, Mapping[str, Any]]
) -> dict[str, KernelTable]:
    """A table for every Hebbian layer, in the order of the model; waits for the device.

    Args:
        model: state of the model, as `Trainer.state_dict()["model"]`.
        strategies: states of the strategies by name; others than `kernel_plasticity` are passed
            over.

    Raises:
        OperatorError: the model has no Hebbian layer.

    Example:
        >>> from insitu.layers.learning_rates import ConstantRates
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> net = torch.nn.Sequential(HebbianLinear(3, 2, SoftHebb(), ConstantRates(0.5)))
        >>> table = kernel_tables(net.state_dict(), {})["0"]
        >>> [(kernel.learning_rate, kernel.gain) for kernel in table.kernels]
        [(0.5, None), (0.5, None)]
    """
    names = hebbian_layers(model)
    if not names:
        raise OperatorError(
            "the model has no Hebbian layer",
            allowed="a model with Hebbian layers, such as `hebbian`",
            consequence="there are no kernels to show",
        )
    modulated = {
        name: state
        for state in strategies.values()
        if {"layers", "gains", "options", "consolidations"} <= set(state)
        for name in state["layers"]
    }
    return {name: _table(name, model, modulated.get(name)) for name in names}


def trainer_kernels(trainer: Trainer) -> dict[str, KernelTable]:
    """`kernel_tables` of a trainer between two steps."""
    states = {
        name: strategy.kernels()
        for name, strategy in trainer.strategies.items()
        if isinstance(strategy, KernelPlasticityStrategy)
    }
    return kernel_tables(trainer.module.state_dict(), states)


def hebbian_layers(model: Mapping[str, Any]) -> list[str]:
    """Names of the Hebbian layers in the state of a model."""
    prefixes = [key.removesuffix("norms") for key in model if key.split(".")[-1] == "norms"]
    return [
        prefix.removesuffix(".")
        for prefix in prefixes
        if all(prefix + part in model for part in _OF_A_LAYER)
    ]


def _table(name: str, model: Mapping[str, Any], strategy: Mapping[str, Any] | None) -> KernelTable:
    prefix = f"{name}." if name else ""
    norms, rates = model[prefix + "norms"], model[prefix + "learning_rates_in_force"]
    columns = {"kernel": torch.arange(len(norms)), "norm": norms, "learning_rate": rates}
    counts: dict[str, Any] = {"mode": None, "images": 0, "steps": 0, "tasks": 0}
    if strategy is not None:
        part, options = strategy["layers"][name], strategy["options"]
        columns |= {**_recorded(part), "gain": strategy["gains"][name]}
        columns["budget_per_step"] = _budget(part, **options)
        counts = {
            "mode": str(options["mode"]),
            "images": int(part["images"]),
            "steps": int(part["steps"]),
            "tasks": int(strategy["consolidations"]),
        }
        if counts["tasks"]:
            counts["last_task_moved_per_step"] = part["last_moved_mean"].cpu()
    return KernelTable(
        layer=name,
        shape=tuple(model[prefix + "weight"].shape),
        updates=int(model[prefix + "updates"]),
        columns={key: columns[key].detach().cpu() for key in COLUMNS if key in columns},
        **counts,
    )


def _recorded(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What kernel plasticity counted, of the task in progress or else of the last one."""
    running, shares = part["steps"] > 0, part["hits"] / part["images"].clamp_min(1.0)

    def newest(now: Tensor, last: str) -> Tensor:
        return torch.where(running, now, part[last])

    return {
        "activation_share": torch.where(part["images"] > 0, shares, part["last_share"]),
        "change_mean_per_step": newest(part["change_mean"], "last_change_mean"),
        "change_largest_per_step": newest(part["change_largest"], "last_change_largest"),
        "moved_mean_per_step": newest(part["moved_mean"], "last_moved_mean"),
        "importance": part["importance"],
        "protected": part["protected"],
        "theta_per_step": part["theta"],
    }


def _budget(part: Mapping[str, Tensor], *, mode: str, damped: float) -> Tensor:
    """(kernels,) of the task in progress; NaN where nothing bounds a step."""
    bound = damped * part["theta"]
    spared = bound - part["moved_mean"]
    # means of steps that were all cut differ from the bound by rounding alone
    spared = torch.where(spared.abs() < 1e-5 * bound, 0.0, spared)
    left = {
        "cap": spared,
        "threshold": part["theta"] - part["change_mean"],
        "lock": torch.zeros_like(part["theta"]),
    }
    return torch.where(part["protected"], left.get(mode, torch.nan), torch.nan)


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)
