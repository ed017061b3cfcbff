"""Kernel plasticity: Hebbian kernels that served former tasks move less.

After R. Casciotti, "Brain-inspired continual learning in Hebbian deep neural networks" (master's
thesis, Politecnico di Milano, 2025). Each Hebbian layer has one gain a kernel,

    w_j <- w_j + m(t) gain_j rate_j D_j / max |D|          adjust_gradients sets m(t) gain_j
    importance, thresholds, protected kernels              observe counts, end_task consolidates

The equations of importance, thresholds and the modes of the gain are in
`insitu.layers.kernel_plasticity`, those of the third factor m(t) in
`insitu.strategies.third_factor`.

Deviations: `cap` is ours: it bounds the drift of a kernel exactly, where a threshold only damps
steps that exceed it. So are `soft`, `lock` and the third factors. In the batch's statistics that
standardise the input of a layer nothing is protected. `standardisation: frozen` keeps them as they
were at the end of the first task: for one layer on a given input; behind a block whose kernels
still move, their norms above all, they are soon those of another network. `per_task` keeps those of
each task, which serve its rows when they are replayed, and when they are asked for where the task
is given (`multi_head`, `task_heads` with `choice: given`), see `insitu.layers.task_statistics`.

Costs: one pass over the directions and one over the activations of every Hebbian layer a step.

Keeps: thirteen numbers a kernel. Constant over tasks, but with `per_task` two numbers a channel and
task.

Use it when: a network has Hebbian layers and its tasks change what they see. On easy data frozen
or even random features forget nothing and may be as good: compare with `plastic_updates` of the
model before you trust a gain. The head forgets too: combine with replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.kernel_plasticity import KernelPlasticity, Mode
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.task_statistics import TasksInProgress
from insitu.layers.watching import Watching
from insitu.strategies.base import Observation, Strategy, check_state_keys
from insitu.strategies.third_factor import ThirdFactor, ThirdFactorOptions

_RATIO = {"unit": "ratio"}


class KernelPlasticityStrategy(Strategy):
    """Modulates all Hebbian layers of the model.

    Args:
        criterion: has the model.
        device: where the model is.

    Raises:
        OperatorError: the model has no Hebbian layer.
    """

    name = "kernel_plasticity"
    figures: ClassVar[Mapping[str, str]] = {
        "third_factor": "ratio: m(t) of the newest step",
        "consolidations": "times: how often importance was taken",
        "protected_share": "ratio: protected kernels, of all",
        "gain_mean": "ratio: mean gain of the newest step, m(t) included, over all kernels",
        "importance_mean": "ratio: mean importance over all kernels",
    }

    def __init__(
        self,
        criterion: Criterion,
        device: torch.device,
        *,
        mode: Mode = "cap",
        protected_share: Annotated[
            float,
            Field(
                ge=0.0,
                le=1.0,
                description="kernels to protect, of a layer",
                json_schema_extra=_RATIO,
            ),
        ] = 0.5,
        damped: Annotated[
            float,
            Field(
                ge=0.0,
                description="gain of a step above the threshold; of `cap`: the largest step, in "
                "thresholds",
                json_schema_extra=_RATIO,
            ),
        ] = 0.1,
        boosted: Annotated[
            float,
            Field(
                ge=0.0,
                description="gain of kernels that are not protected, while a protected one is "
                "damped, for `threshold`",
                json_schema_extra=_RATIO,
            ),
        ] = 1.0,
        deviations: Annotated[
            float,
            Field(
                description="threshold above the mean change of a kernel in its task",
                json_schema_extra={"unit": "standard deviations"},
            ),
        ] = 0.0,
        strength: Annotated[
            float,
            Field(
                ge=0.0,
                allow_inf_nan=False,
                description="how much importance slows a kernel, for `soft`",
                json_schema_extra=_RATIO,
            ),
        ] = 10.0,
        retention: Annotated[
            float,
            Field(
                ge=0.0,
                le=1.0,
                description="share of the old importance that counts against new",
                json_schema_extra=_RATIO,
            ),
        ] = 1.0,
        spread: Annotated[
            float,
            Field(
                ge=0.0,
                le=1.0,
                description="share of a kernel's importance that its neighbours in number get",
                json_schema_extra=_RATIO,
            ),
        ] = 0.0,
        top: Annotated[
            int,
            Field(
                ge=1,
                description="kernels that count as used by an image: those of highest mean "
                "activation",
                json_schema_extra={"unit": "kernels"},
            ),
        ] = 8,
        standardisation: Annotated[
            Literal["shared", "frozen", "per_task"],
            Field(
                description="statistics that standardise the inputs of Hebbian layers: shared by "
                "all tasks, frozen when the first one ends, or those of each task, kept at its end"
            ),
        ] = "shared",
        third_factor: Annotated[
            ThirdFactorOptions | None,
            Field(description="a factor on all gains that is taken from the batch"),
        ] = None,
    ) -> None:
        self._module = module = criterion.module
        layers = {n: p for n, p in module.named_modules() if isinstance(p, HebbianLayer)}
        if not layers:
            raise OperatorError(
                f"strategy {self.name!r} modulates Hebbian layers, and the model has none",
                allowed="a model with Hebbian layers, such as `hebbian`",
                consequence="the service does not start",
                remedy="choose another strategy, or another model",
            )
        self.parts = {
            name: KernelPlasticity(
                layer,
                mode=mode,
                protected_share=protected_share,
                damped=damped,
                boosted=boosted,
                deviations=deviations,
                strength=strength,
                retention=retention,
                spread=spread,
                top=min(top, layer.weight.shape[0]),
            )
            for name, layer in layers.items()
        }
        _watch_activations(module, {part.layer: part for part in self.parts.values()})
        parts = [part for part in module.modules() if isinstance(part, BatchStandardisation)]
        self._standardisations = parts if standardisation == "frozen" else []
        kept = [part.keep_tasks() for part in parts if standardisation == "per_task"]
        self._in_progress = TasksInProgress(kept)
        # for those who read a checkpoint: what the numbers in it mean
        self._options: dict[str, Any] = {"mode": mode, "damped": damped}
        self._third = None if third_factor is None else ThirdFactor(third_factor, device)
        self._factor: Tensor | float = 1.0
        self._tasks: set[int] = set()
        self.consolidations = 0

    def losses(self, batch: Batch, outputs: Tensor, losses: Tensor) -> Tensor:
        if self._third is not None:
            self._factor = self._third.of(batch, losses)
        return losses

    def adjust_gradients(self) -> None:
        for part in self.parts.values():
            part.modulate(self._factor)

    def observe(self, observation: Observation) -> None:
        for part in self.parts.values():
            part.record()
        if self._third is not None:
            self._third.count()
        tasks = observation.batch.fresh_tasks()
        self._tasks.update(tasks)
        self._in_progress.tasks.update(tasks)

    def end_task(self, task: int) -> None:
        """Consolidate what was counted since the last end, of whatever task.

        A task without samples since then changes nothing: of several that end together the first
        takes what all of them did.
        """
        self._in_progress.end_task(task)
        if task not in self._tasks:
            return
        self._tasks.clear()
        for part in self.parts.values():
            part.end_task()
        self.consolidations += 1
        self._freeze()

    def _freeze(self) -> None:
        frozen = self.consolidations > 0
        for part in self._standardisations:
            if part.frozen != frozen:
                part.frozen = frozen
                # an older state thaws it, where its neighbours still train
                part.train(self._module.training)

    def metrics(self) -> Mapping[str, Tensor | float]:
        parts = list(self.parts.values())
        gains = [part.layer.gain for part in parts if part.layer.gain is not None]
        return {
            "third_factor": 1.0 if self._third is None else self._third.value,
            "consolidations": float(self.consolidations),
            "protected_share": torch.cat([part.protected for part in parts]).float().mean(),
            "gain_mean": torch.cat(gains).mean(),
            "importance_mean": torch.cat([part.importance for part in parts]).mean(),
        }

    def kernels(self) -> dict[str, Any]:
        """What is known of the kernels, the part of the state that `insitu.analysis` shows."""
        return {
            "options": self._options,
            "layers": {name: dict(part.state_dict()) for name, part in self.parts.items()},
            "gains": {name: part.layer.gain for name, part in self.parts.items()},
            "consolidations": self.consolidations,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.kernels(),
            "third_factor": None if self._third is None else self._third.state_dict(),
            "tasks": sorted(self._tasks),
            "tasks_in_progress": sorted(self._in_progress.tasks),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state. Options stay as they are here: an operator may change them."""
        check_state_keys(self.name, state, self.state_dict())
        check_state_keys(f"{self.name}.layers", state["layers"], self.parts)
        for name, part in self.parts.items():
            _load(f"{self.name}.layers.{name}", part, state["layers"][name])
            assert part.layer.gain is not None
            part.layer.gain.copy_(state["gains"][name])
        if self._third is not None and state["third_factor"] is not None:
            self._third.load_state_dict(state["third_factor"])
        self._tasks = {int(task) for task in state["tasks"]}
        self._in_progress.tasks = {int(task) for task in state["tasks_in_progress"]}
        self.consolidations = int(state["consolidations"])
        self._freeze()


def _watch_activations(module: nn.Module, parts: Mapping[HebbianLayer, KernelPlasticity]) -> None:
    """Show each part what its layer answers: after the Triangle of its block, if it is in one."""
    sources: dict[HebbianLayer, nn.Module] = {layer: layer for layer in parts}
    for block in module.modules():
        if isinstance(block, HebbianBlock) and block.activation is not None:
            sources[block.layer] = block.activation
    for layer, source in sources.items():
        source.register_forward_hook(Watching(partial(_watch, layer, parts[layer])))


def _watch(layer: HebbianLayer, part: KernelPlasticity, activations: Tensor) -> None:
    """Only passes that the layer learns from are watched."""
    if layer.training and layer.plastic and layer.recording:
        part.watch(activations)


def _load(name: str, part: KernelPlasticity, saved: Mapping[str, Tensor]) -> None:
    own = part.state_dict()
    shapes = {key: list(tensor.shape) for key, tensor in saved.items()}
    expected = {key: list(tensor.shape) for key, tensor in own.items()}
    if shapes != expected:
        raise OperatorError(
            f"the state of {name} has {shapes}",
            allowed=f"{expected}",
            remedy="resume with the model that the checkpoint was written with",
        )
    part.load_state_dict(dict(saved))


COMPONENT = KernelPlasticityStrategy
