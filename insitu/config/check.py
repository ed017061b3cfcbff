"""From what pydantic says to problems that an operator can act on."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from insitu.config.problem import Path, Problem
from insitu.errors import did_you_mean

_BOUNDS = {
    "greater_than_equal": ("ge", "{} or more"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "{} or less"),
    "less_than": ("lt", "less than {}"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
    "literal_error": ("expected", "{}"),
}


def validated(annotation: Any, value: Any, path: Path) -> tuple[Any, list[Problem]]:
    """The value as the annotated type, or None and what is wrong with it.

    It goes through JSON because that is where pydantic's strict mode has the types of YAML: a
    list may become a tuple, and neither "5" nor true becomes a number.
    """
    try:
        return TypeAdapter(annotation).validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        found = [
            _problem(annotation, value, details) for details in error.errors(include_url=False)
        ]
        return None, [problem.under(path) for problem in _merged(found)]


def option_problems(options: type[BaseModel], given: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the options of a component."""
    try:
        options.model_validate(dict(given))
    except ValidationError as error:
        details = error.errors(include_url=False)
        return _merged([_problem(options, dict(given), each) for each in details])
    return []


def _problem(annotation: Any, value: Any, details: ErrorDetails) -> Problem:
    path, kind = tuple(details["loc"]), details["type"]
    if kind == "extra_forbidden":
        known = sorted(_names(annotation, path[:-1]))
        hint = did_you_mean(str(path[-1]), known)
        return Problem(path, "no such setting", ", ".join(known) or "none", hint)
    if kind == "missing":
        return Problem(path, "is missing")
    where = _existing(value, path)
    context = details.get("ctx", {})
    if kind in _BOUNDS:
        name, form = _BOUNDS[kind]
        bound = context[name]
        hint = _close_choice(details["input"], bound) if kind == "literal_error" else ""
        return Problem(where, f"is {details['input']!r}", form.format(bound), hint)
    if where != path and path[-1] == "[key]":
        where = path[:-1]
    message = details["msg"].removeprefix("Value error, ")
    given = details["input"]
    short = isinstance(given, (str, int, float, bool)) or given is None
    return Problem(where, f"is {given!r}: {_lower(message)}" if short else _lower(message))


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _close_choice(given: Any, expected: str) -> str:
    return did_you_mean(str(given), expected.replace("'", "").replace(" or ", ", ").split(", "))


def _existing(value: Any, path: Path) -> Path:
    """The part of the path that is in the data; pydantic appends names of union members."""
    for depth, step in enumerate(path):
        inside = isinstance(value, Mapping) and step in value
        inside |= isinstance(value, list) and isinstance(step, int) and step < len(value)
        if not inside:
            return path[:depth]
        value = value[step]
    return path


def _merged(problems: Iterable[Problem]) -> list[Problem]:
    """One problem a place: the members of a union complain one by one."""
    merged: dict[Path, Problem] = {}
    for problem in problems:
        before = merged.get(problem.path)
        if before is None:
            merged[problem.path] = problem
        elif problem.message not in before.message:
            message = f"{before.message}, or {problem.message.rpartition(': ')[2]}"
            merged[problem.path] = Problem(problem.path, message, before.allowed or problem.allowed)
    return list(merged.values())


def _names(annotation: Any, path: Path) -> set[str]:
    """The settings that exist at a path below an annotated type."""
    models = list(_models(annotation))
    if not path:
        return {name for model in models for name in model.model_fields}
    step, rest = path[0], path[1:]
    inner = [m.model_fields[str(step)].annotation for m in models if str(step) in m.model_fields]
    if not inner:  # an item of a list, a value of a mapping, or the name of a union's member
        inner = list(models) if models else list(typing.get_args(annotation))
    return {name for each in inner for name in _names(each, rest)}


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (
        typing.Union,
        types.UnionType,
        typing.Annotated,
        tuple,
        dict,
    ):
        for argument in typing.get_args(annotation):
            yield from _models(argument)
