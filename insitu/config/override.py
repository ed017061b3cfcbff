"""Settings from outside the file: environment variables and `--set`.

Later wins: the file, then the environment, then `--set`.
`INSITU__BUFFER__CAPACITY_SAMPLES=64` and `--set buffer.capacity_samples=64` say the same; a value
is read as YAML, so lists and mappings work too. A number names an item of a list; the number
after the last adds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insitu.config.document import parse
from insitu.config.problem import ConfigError, Path, Problem

PREFIX = "INSITU__"


@dataclass(frozen=True)
class Override:
    """One value for one place, and who said so."""

    path: Path
    value: Any
    origin: str


def from_environment(environment: Mapping[str, str]) -> Iterator[Override]:
    """The overrides in variables whose name starts with `INSITU__`, in order of their names."""
    for name in sorted(environment):
        if name.startswith(PREFIX):
            path = _path(name[len(PREFIX) :].lower().split("__"), name)
            yield Override(path, parse(environment[name], name).data, name)


def from_arguments(arguments: Sequence[str]) -> Iterator[Override]:
    """The overrides in words like `buffer.capacity_samples=64`, in the order given."""
    for argument in arguments:
        origin = f"--set {argument}"
        name, equals, text = argument.partition("=")
        if not equals:
            problem = Problem((), f"{origin!r} has no '='", allowed="--set section.setting=value")
            raise ConfigError([problem], "the command line")
        yield Override(_path(name.strip().split("."), origin), parse(text, origin).data, origin)


def _path(words: Sequence[str], origin: str) -> Path:
    if not all(words):
        problem = Problem((), f"{origin!r} names no setting: a part of the name is empty")
        raise ConfigError([problem], "an override")
    return tuple(int(word) if word.isdecimal() else word for word in words)


def apply(tree: dict[str, Any], override: Override) -> Path:
    """Put the value into the tree, in place; the path as the tree spells it.

    Names match whatever their case, because variables are written in capitals.

    Example:
        >>> tree = {"strategies": [{"name": "replay"}]}
        >>> apply(tree, Override(("strategies", 0, "name"), "online_ewc", "--set"))
        ('strategies', 0, 'name')
        >>> tree
        {'strategies': [{'name': 'online_ewc'}]}
    """
    spelled: list[str | int] = []
    here: Any = tree
    for depth, step in enumerate(override.path):
        last = depth == len(override.path) - 1
        step = _spelling(here, step, override)
        spelled.append(step)
        if last:
            _put(here, step, override.value)
        else:
            child = here[step] if _has(here, step) else None
            if child is None:
                child = [] if isinstance(override.path[depth + 1], int) else {}
                _put(here, step, child)
            here = child
    return tuple(spelled)


def _has(here: Any, step: str | int) -> bool:
    return step in here if isinstance(here, dict) else int(step) < len(here)


def _put(here: Any, step: str | int, value: Any) -> None:
    if isinstance(here, list) and step == len(here):
        here.append(value)
    else:
        here[step] = value


def _spelling(here: Any, step: str | int, override: Override) -> str | int:
    if isinstance(here, list):
        if isinstance(step, int) and step <= len(here):
            return step
        raise _misplaced(
            override, f"{step!r} is no item of a list of {len(here)}", f"0 to {len(here)}"
        )
    if isinstance(here, dict):
        word = str(step)
        same = [key for key in here if key.lower() == word.lower()]
        return word if word in here or not same else same[0]
    raise _misplaced(override, f"{step!r} would stand inside of {here!r}, which is a single value")


def _misplaced(override: Override, message: str, allowed: str = "") -> ConfigError:
    problem = Problem(override.path, message, allowed, origin=override.origin)
    return ConfigError([problem], "an override")
