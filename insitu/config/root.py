"""The whole configuration, and how it is read: the file, the environment, `--set`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from insitu.component import find
from insitu.config.buffer import BufferSection, PaceSection
from insitu.config.check import validated
from insitu.config.components import PACKAGES, component_problems
from insitu.config.continual import DetectionSection, StrategySection
from insitu.config.document import parse
from insitu.config.learning import (
    ModelSection,
    ObjectiveSection,
    OptimizerSection,
    ScheduleSection,
    TrainerSection,
)
from insitu.config.log import LogSection
from insitu.config.machine import machine_problems
from insitu.config.override import apply, from_arguments, from_environment
from insitu.config.problem import ConfigError, Problem
from insitu.config.records import CheckpointSection, EvaluationSection
from insitu.config.rules import broken_rules
from insitu.config.service import HookSection, HttpSection, ServiceSection
from insitu.config.setting import Section, setting
from insitu.config.stream import StreamSection
from insitu.errors import did_you_mean


class Config(Section):
    """Everything that a service is told; made by `load_config` or `check_config`."""

    service: ServiceSection = ServiceSection()
    stream: StreamSection
    buffer: BufferSection = BufferSection()
    pace: PaceSection = PaceSection()
    model: ModelSection
    objective: ObjectiveSection
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    strategies: Annotated[
        tuple[StrategySection, ...], setting("Continual-learning methods, in the order they work.")
    ] = ()
    detection: Annotated[
        tuple[DetectionSection, ...],
        setting("Detectors of drift; each may end the tasks in progress. None by default."),
    ] = ()
    trainer: TrainerSection = TrainerSection()
    evaluation: EvaluationSection = EvaluationSection()
    log: LogSection = LogSection()
    checkpoint: CheckpointSection = CheckpointSection()
    hooks: Annotated[tuple[HookSection, ...], setting("What to run when something happens.")] = ()
    http: HttpSection = Field(default_factory=HttpSection)


def load_config(
    path: Path | str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Config:
    """Read a configuration; later wins: the file, then the environment, then `overrides`.

    Args:
        path: the YAML file.
        overrides: words like `buffer.capacity_samples=64`; a value is read as YAML.
        environment: variables; those whose name starts with `INSITU__` count.

    Raises:
        ConfigError: with all that is wrong, each by its path, its value and its origin.
    """
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem((), f"cannot be read: {reason}")], source) from None
    document = parse(text, source)
    tree = {} if document.data is None else document.data
    if not isinstance(tree, dict):
        raise ConfigError([Problem((), "is not a mapping of sections")], source)
    origins = {place: f"line {line}" for place, line in document.lines.items()}
    for override in (*from_environment(environment or {}), *from_arguments(overrides)):
        origins[apply(tree, override)] = override.origin
    return check_config(tree, source, origins)


def check_config(
    tree: Mapping[str, Any],
    source: str = "the configuration",
    origins: Mapping[tuple[str | int, ...], str] | None = None,
) -> Config:
    """The configuration in plain data, when nothing is wrong with it.

    Args:
        tree: mappings, lists, text, numbers, booleans and null.
        source: what to call it in an error.
        origins: where the value at a path was set.

    Raises:
        ConfigError: with all that is wrong.
    """
    sections, problems = _sections(tree)
    problems += broken_rules(sections)
    problems += component_problems(sections)
    problems += machine_problems(sections)
    if problems:
        raise ConfigError(_with_origins(problems, origins or {}), source)
    return Config.model_construct(**sections)


def _sections(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Each section by itself, so that one that is wrong does not hide the rest."""
    known = list(Config.model_fields)
    problems = [
        Problem((name,), "no such section", ", ".join(known), did_you_mean(name, known))
        for name in tree
        if name not in known
    ]
    sections: dict[str, Any] = {}
    for name, info in Config.model_fields.items():
        if tree.get(name) is None:
            if info.is_required():
                problems.append(Problem((name,), "is missing"))
            else:
                sections[name] = info.get_default(call_default_factory=True)
            continue
        section, wrong = validated(info.annotation, tree[name], (name,))
        problems += wrong
        if not wrong:
            sections[name] = section
    return sections, problems


def _with_origins(
    problems: Iterable[Problem], origins: Mapping[tuple[str | int, ...], str]
) -> list[Problem]:
    """Each problem with the origin of its value, or else of the nearest thing around it."""
    order = {name: index for index, name in enumerate(Config.model_fields)}
    found = []
    for problem in problems:
        path: tuple[str | int, ...] = problem.path
        while path and path not in origins:
            path = path[:-1]
        origin = problem.origin or (origins[path] if path else "")
        found.append(Problem(problem.path, problem.message, problem.allowed, problem.hint, origin))
    return sorted(found, key=lambda each: order.get(str(each.path[0]), -1) if each.path else -1)


def effective(config: Config) -> dict[str, Any]:
    """The configuration as plain data, with every default filled in, those of options too."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    _fill(tree["model"], "model")
    _fill(tree["objective"], "objective")
    for strategy in tree["strategies"]:
        _fill(strategy, "strategies")
        if strategy["memory"] is not None:
            _fill(strategy["memory"], "memory")
    for detector in tree["detection"]:
        _fill(detector, "detection")
    return tree


def _fill(section: dict[str, Any], kind: str) -> None:
    options = find(PACKAGES[kind], section["name"]).options
    defaults = options.model_validate(section["options"]).model_dump(mode="json", fallback=repr)
    section["options"] = {**defaults, **section["options"]}


@functools.cache
def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors: ranges, units and meanings included."""
    return Config.model_json_schema()
