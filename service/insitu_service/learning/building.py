"""Builds the learning parts from the configuration: model to trainer, buffer to memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from insitu.component import find
from insitu.config import Config
from insitu.config.continual import StrategySection
from insitu.criterion import Criterion
from insitu.detection import Detector, DriftWatch
from insitu.errors import InsituError, OperatorError, PluginError
from insitu.memory.base import Memory
from insitu.models.build import build_model
from insitu.normalisation import Normaliser
from insitu.objectives.base import Objective
from insitu.objectives.multi_head import MultiHead
from insitu.optimization import build_optimizer, build_schedule
from insitu.schema import Schema
from insitu.strategies.base import Strategy
from insitu.stream.buffer import StreamBuffer
from insitu.stream.pacing import FixedPace, FreePace, Pace
from insitu.stream.policies import FIFO, FIRO, Policy, Reservoir
from insitu.tasks import TaskLedger
from insitu.trainer import Trainer
from insitu_service.learning.generators import part_generator, part_seed
from insitu_service.learning.memories import build_store


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise OperatorError(
            f"trainer.device is {name!r}, and this torch sees no GPU",
            allowed="auto, cpu",
            consequence="the service does not start",
            remedy="install the CUDA build of torch (see README.md), or check the driver",
        )
    return torch.device(name)


def build_buffer(config: Config, device: torch.device) -> StreamBuffer:
    """The stream buffer with its policy, pace and task ledger."""
    capacity, section = config.buffer.capacity_samples, config.buffer
    policy: Policy
    if section.policy == "fifo":
        policy = FIFO(capacity)
    elif section.policy == "firo":
        policy = FIRO(capacity, watermark_samples=section.watermark_samples)
    else:
        policy = Reservoir(capacity, watermark_samples=section.watermark_samples)
    pace: Pace
    if config.pace.kind == "fixed":
        pace = FixedPace(config.pace.samples_per_insert)
    else:
        pace = FreePace(config.pace.samples_per_insert, config.pace.linger_seconds)
    return StreamBuffer(
        config.stream.as_schema(),
        capacity,
        policy,
        pace,
        TaskLedger(most_tasks=config.stream.max_tasks),
        when_full=section.when_full,
        pin_memory=device.type == "cuda",
        generator=part_generator(config.trainer.seed, "buffer"),
    )


def build_trainer(config: Config, device: torch.device) -> Trainer:
    """Model, objective, normaliser, optimizer, schedule and strategies, made one trainer."""
    schema, seed = config.stream.as_schema(), config.trainer.seed
    torch.manual_seed(part_seed(seed, "torch"))
    objective, model = build_network(config)
    model.to(device)
    normaliser = _build_normaliser(config, schema, objective)
    if normaliser is not None:
        normaliser.to(device)
    optimizer = build_optimizer(
        config.optimizer.name, model.named_parameters(), config.optimizer.options
    )
    schedule = build_schedule(
        config.schedule.name,
        optimizer,
        config.schedule.options,
        warmup_steps=config.schedule.warmup_steps,
        repeat=config.schedule.repeat,
    )
    trained = torch.compile(model) if config.trainer.compile else model
    criterion = Criterion(trained, objective, normaliser, precision=config.trainer.precision)  # type: ignore[arg-type]
    parts = {
        "model": model,
        "objective": objective,
        "normaliser": normaliser,
        "schema": schema,
        "criterion": criterion,
        "optimizer": optimizer,
    }
    strategies = [
        _build_strategy(section, f"strategies.{index}", parts, device, seed, config.checkpoint.keep)
        for index, section in enumerate(config.strategies)
    ]
    return Trainer(
        trained,  # type: ignore[arg-type]
        objective,
        optimizer,
        schedule=schedule,
        strategies=strategies,
        normaliser=normaliser,
        precision=config.trainer.precision,
        gradient_clip_norm=config.trainer.gradient_clip_norm,
        non_finite=config.trainer.non_finite,
        device=device,
        updates_per_batch=config.trainer.updates_per_batch,
        watch=_build_watch(config, {**parts, "device": device}, seed),
        cuda_graphs=config.trainer.cuda_graphs,
    )


def build_network(config: Config) -> tuple[Objective, nn.Module]:
    """The objective, and the model with what the objective adds to it, on the CPU."""
    parts = {"schema": config.stream.as_schema()}
    objective: Objective = _build("insitu.objectives", config.objective, parts)
    model = build_model(
        config.model.name,
        config.model.options,
        objective.input_shape,
        objective.output_shape,
        seed=part_seed(config.trainer.seed, "model"),
        network=objective.network,
    )
    return objective, model


def _build_normaliser(config: Config, schema: Schema, objective: Objective) -> Normaliser | None:
    wanted = config.trainer.normalise
    sources = {
        name: source
        for name, source in objective.statistics_of.items()
        if source in wanted and wanted[source].kind == "running"
    }
    if not sources:
        return None
    return Normaliser(
        schema,
        sources,
        axes={name: s.axes for name, s in wanted.items() if s.axes is not None},
        freeze_after_samples=config.trainer.normalise_freeze_samples,
        clip_deviations=config.trainer.normalise_clip_deviations,
    )


def _build_strategy(
    section: StrategySection,
    place: str,
    parts: Mapping[str, Any],
    device: torch.device,
    seed: int,
    kept: int,
) -> Strategy:
    live = {**parts, "device": device, "generator": part_generator(seed, place)}
    if section.memory is not None:
        memory_parts = {
            "capacity_samples": section.memory.capacity_samples,
            "device": device,
            "generator": part_generator(seed, f"{place}.memory"),
            "criterion": parts["criterion"],
            "objective": parts["objective"],
        }
        memory: Memory = _build("insitu.memory", section.memory, memory_parts)
        memory.check_stream(parts["schema"])
        memory.keep_in(
            build_store(section.memory, place, device, parts["objective"], checkpoints_kept=kept)
        )
        live["memory"] = memory
    strategy: Strategy = _build("insitu.strategies", section, live)
    return strategy


def _build_watch(config: Config, parts: Mapping[str, Any], seed: int) -> DriftWatch | None:
    """All detectors of the configuration; None without any."""
    detectors: list[tuple[Detector, int]] = []
    objective = parts["objective"]
    if config.detection and isinstance(objective, MultiHead) and objective.head_field is None:
        raise OperatorError(
            "objective 'multi_head' finds the head of a row by its task, and detection cuts tasks",
            allowed="no detection, or the objective's option `head`",
            consequence="rows behind a boundary would go to other heads; nothing starts",
            remedy="name a field with the head of a row, or leave `detection` out",
        )
    for index, section in enumerate(config.detection):
        live = {**parts, "generator": part_generator(seed, f"detection.{index}")}
        detector: Detector = _build("insitu.detection", section, live)
        detectors.append((detector, section.cooldown_steps))
    return DriftWatch(detectors) if detectors else None


def _build(package: str, section: Any, parts: Mapping[str, Any]) -> Any:
    """A component; whatever a factory raises is told as its owner's fault, with its name."""
    try:
        return find(package, section.name).build(section.options, parts)
    except InsituError:
        raise
    except Exception as error:
        kind = package.rpartition(".")[2]
        raise PluginError(
            f"{kind} {section.name!r} cannot be built: {type(error).__name__}: {error}",
            consequence="the service does not start",
        ) from error
