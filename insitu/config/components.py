"""Models, objectives, strategies, memories, hooks: do they exist, and do their options fit?

Only here does reading a configuration import torch, through the packages of components.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from insitu.component import Component, catalogue, find
from insitu.config.check import option_problems
from insitu.config.continual import DetectionSection, MemorySection, StrategySection
from insitu.config.learning import ModelSection, ObjectiveSection, OptimizerSection, ScheduleSection
from insitu.config.problem import Path, Problem
from insitu.config.service import HookSection
from insitu.config.stream import StreamSection
from insitu.errors import InsituError, OperatorError, did_you_mean

#: The packages that hold the components of each kind.
PACKAGES = {
    "model": "insitu.models",
    "objective": "insitu.objectives",
    "strategies": "insitu.strategies",
    "memory": "insitu.memory",
    "detection": "insitu.detection",
}


def component_problems(sections: Mapping[str, Any]) -> list[Problem]:
    """The problems of all components in the sections that are sound by themselves."""
    problems: list[Problem] = []
    if "model" in sections:
        problems += _checked("model", sections["model"], ("model",))[1]
    if "objective" in sections:
        problems += _objective_problems(sections["objective"], sections.get("stream"))
    for index, section in enumerate(sections.get("strategies", ())):
        problems += _strategy_problems(section, sections.get("stream"), ("strategies", index))
    for index, section in enumerate(sections.get("detection", ())):
        problems += _checked("detection", section, ("detection", index))[1]
    problems += _optimization_problems(sections.get("optimizer"), sections.get("schedule"))
    for index, hook in enumerate(sections.get("hooks", ())):
        problems += _hook_problems(hook, ("hooks", index))
    return problems


def _checked(
    kind: str,
    section: ModelSection | ObjectiveSection | StrategySection | MemorySection | DetectionSection,
    path: Path,
) -> tuple[Component | None, list[Problem]]:
    try:
        component = find(PACKAGES[kind], section.name)
    except OperatorError as error:
        known = [] if ":" in section.name else list(catalogue(PACKAGES[kind]))
        hint = did_you_mean(section.name, known) or error.remedy
        message = f"is {section.name!r}: {error.message}"
        return None, [Problem((*path, "name"), message, error.allowed, hint)]
    except Exception as error:  # whatever the user's own module does at import
        if ":" not in section.name:
            raise
        return None, [Problem((*path, "name"), f"is {section.name!r}, which raises {error!r}")]
    wrong = option_problems(component.options, section.options)
    return component, [problem.under((*path, "options")) for problem in wrong]


def _objective_problems(section: ObjectiveSection, stream: StreamSection | None) -> list[Problem]:
    component, problems = _checked("objective", section, ("objective",))
    if component is None or problems or stream is None:
        return problems
    try:
        objective = component.build(section.options, {"schema": stream.as_schema()})
    except InsituError as error:
        return [Problem(("objective",), error.message, error.allowed, error.remedy)]
    except Exception as error:  # the user's own factory
        return [Problem(("objective",), f"{section.name!r} raises {error!r} when it is made")]
    return list(_label_problems(getattr(objective, "label_range", {}), stream))


def _label_problems(
    ranges: Mapping[str, tuple[float, float]], stream: StreamSection
) -> Iterator[Problem]:
    """Bounds that let labels through which the objective cannot take."""
    for name, (lowest, highest) in ranges.items():
        section = stream.fields[name]
        for bound, value, outside in (
            ("minimum", section.minimum, section.minimum is not None and section.minimum < lowest),
            ("maximum", section.maximum, section.maximum is not None and section.maximum > highest),
        ):
            if outside:
                yield Problem(
                    ("stream", "fields", name, bound),
                    f"is {value}, but the objective takes labels from {lowest} to {highest}",
                    f"{lowest} to {highest}, or a larger objective",
                )


def _strategy_problems(
    section: StrategySection, stream: StreamSection | None, path: Path
) -> list[Problem]:
    component, problems = _checked("strategies", section, path)
    if component is not None and stream is not None and not problems:
        try:
            component.check_stream(component.check(section.options), stream.as_schema())
        except OperatorError as error:
            found = Problem((*path, "options"), error.message, error.allowed, error.remedy)
            problems.append(found)
    if section.memory is not None:
        problems += _checked("memory", section.memory, (*path, "memory"))[1]
    if component is not None:
        asks = "memory" in component.parts
        if asks and section.memory is None:
            problems.append(
                Problem(
                    (*path, "memory"),
                    f"is missing: {section.name!r} replays from one",
                    "a memory: " + ", ".join(catalogue(PACKAGES["memory"])),
                )
            )
        elif not asks and section.memory is not None:
            problems.append(Problem((*path, "memory"), f"is given, but {section.name!r} uses none"))
    return problems


def _optimization_problems(
    optimizer: OptimizerSection | None, schedule: ScheduleSection | None
) -> list[Problem]:
    """Names and options of torch's own classes, tried out on one number."""
    import torch

    optimization = importlib.import_module("insitu.optimization")  # a layer above this one
    problems, probe = [], [("probe", torch.zeros(1, requires_grad=True))]
    built = torch.optim.SGD(probe, lr=0.1, momentum=0.9)
    if optimizer is not None:
        try:
            built = optimization.build_optimizer(optimizer.name, probe, optimizer.options)
        except InsituError as error:
            problems.append(Problem(("optimizer",), error.message, error.allowed, error.remedy))
    if schedule is not None:
        try:
            optimization.build_schedule(schedule.name, built, schedule.options)
        except InsituError as error:
            problems.append(Problem(("schedule",), error.message, error.allowed, error.remedy))
    return problems


def _hook_problems(section: HookSection, path: Path) -> list[Problem]:
    if section.python is None:
        return []
    module_name, _, attribute = section.python.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever the user's module does at import
        return [
            Problem((*path, "python"), f"is {section.python!r}, which cannot be imported: {error}")
        ]
    if not callable(function):
        return [Problem((*path, "python"), f"is {section.python!r}, which cannot be called")]
    return []
