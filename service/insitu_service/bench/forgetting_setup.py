"""One configuration for every run: the same network, memory and pace, other strategies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from insitu.component import find
from insitu.config.override import Override, apply, from_arguments
from insitu_producers.sources.task_stream import TaskStream
from insitu_service.bench.forgetting_variants import Variant

_CAPACITY_SAMPLES = 1024

Measured = Literal["all", "begun", "ended"]


@dataclass(frozen=True)
class Setup:
    """What all variants have in common.

    Args:
        stream: name of the stream; `stream_options` are its options, as text.
        memory: samples that a strategy may remember; `memory_policy` says which.
        batch: fresh samples of a step.
        replayed: remembered samples of a step, for strategies that replay.
        updates: on every batch.
        optimizer, lr: empty and None: SGD at 0.05 for classes, Adam at 0.001 for the rest.
        model: empty: a perceptron for classes, and what fits for the rest.
        options: options of strategies by name of the strategy, for all variants that have it.
        settings: further words like `trainer.gradient_clip_norm=1`.
        evaluate_every: measure every so many steps too; None: at the ends of tasks only.
        probes: held-out samples kept of each task.
        probes_between: of them for those measurements between the ends of tasks; None: all.
        measured: where a task ends, all tasks; or those that have begun, which leaves out forward
            transfer; or that one alone and all of them at the last end, which is enough for
            average, learning and backward transfer, and much faster.
    """

    stream: str
    stream_options: Mapping[str, str] = field(default_factory=dict)
    memory: int = 100
    memory_policy: str = "reservoir"
    batch: int = 10
    replayed: int | None = None
    updates: int = 1
    optimizer: str = ""
    lr: float | None = None
    model: str = ""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    evaluate_every: int | None = None
    probes: int = 10_000
    threads: int | None = None
    device: str = "auto"
    probes_between: int | None = None
    measured: Measured = "all"


def configuration(setup: Setup, variant: Variant, stream: TaskStream, seed: int) -> dict[str, Any]:
    """The whole configuration of one run, as plain data for `check_config`."""
    objective, model = _what_is_learned(stream)
    if setup.model:
        model = {"name": setup.model}
    has_classes = stream.classes > 0
    rate = setup.lr if setup.lr is not None else (0.05 if has_classes else 0.001)
    tree: dict[str, Any] = {
        "stream": {
            "names": [stream.name],
            "fields": {
                name: {"dtype": dtype, "shape": list(shape)}
                for name, (dtype, shape) in stream.fields.items()
            },
        },
        # by counts alone, so that a run does not depend on how fast anybody is
        "buffer": {"policy": "fifo", "capacity_samples": max(_CAPACITY_SAMPLES, 4 * setup.batch)},
        "pace": {"kind": "fixed"},
        "model": {**model, "options": {**model.get("options", {}), **setup.model_options}},
        "objective": objective,
        "optimizer": {
            "name": setup.optimizer or ("SGD" if has_classes else "Adam"),
            "options": {"lr": rate},
        },
        "strategies": [_strategy(setup, stream, each) for each in variant.strategies],
        "trainer": {
            "batch_size": setup.batch,
            "updates_per_batch": setup.updates,
            "seed": seed,
            "threads": setup.threads,
            "device": setup.device,
        },
        "evaluation": {
            "probe_samples_per_task": setup.probes,
            "every_steps": setup.evaluate_every,
        },
    }
    for override in from_arguments(setup.settings):
        apply(tree, override)
    for path, value in variant.settings.items():
        steps = tuple(int(word) if word.isdecimal() else word for word in path.split("."))
        apply(tree, Override(steps, copy.deepcopy(value), f"set of {variant.name}"))
    return tree


def _strategy(setup: Setup, stream: TaskStream, section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with a memory where one is asked for, and as many samples as all replay."""
    component = find("insitu.strategies", str(section["name"]))
    known = component.options.model_fields
    options = {
        "samples_per_step": setup.replayed or setup.batch,
        # of GEM, which divides a memory of its own
        "capacity_samples": setup.memory,
        "most_tasks": min(len(stream.tasks), 50),
    }
    options = {name: value for name, value in options.items() if name in known}
    filled: dict[str, Any] = {
        **section,
        "options": {
            **options,
            **setup.options.get(component.name, {}),
            **(section.get("options") or {}),
        },
    }
    if "memory" in component.parts:
        memory = {"name": setup.memory_policy, "capacity_samples": setup.memory}
        filled["memory"] = {**memory, **(section.get("memory") or {})}
    return filled


def _what_is_learned(stream: TaskStream) -> tuple[dict[str, Any], dict[str, Any]]:
    """(objective, model) sections that fit the fields of a stream."""
    if stream.scenario == "task incremental":
        options = {"heads": len(stream.tasks), "classes": stream.classes}
        return {"name": "multi_head", "options": options}, {"name": "mlp"}
    if stream.classes:
        return {"name": "classify", "options": {"classes": stream.classes}}, {"name": "mlp"}
    if "condition" in stream.fields:
        objective = {"name": "density", "options": {"condition": "condition"}}
        return objective, {"name": "conditional_flow"}
    model = {"name": "conv_autoencoder_2d", "options": {"channels": [16, 8], "periodic": True}}
    return {"name": "reconstruct"}, model
