"""The generated tables: settings, components, metrics, hooks, commands, exit codes."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from insitu.component import Component, catalogue
from insitu.config import Config
from insitu.config.components import PACKAGES
from insitu.hooks import ALERTS, COMMON_FIELDS, EVENTS
from insitu.metrics import LABELS, METRICS
from insitu_service import exit_codes
from insitu_service.commands import COMMANDS
from insitu_service.http.application import ADDRESSES

_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "{} or more"}
_TYPES: dict[Any, str] = {
    bool: "true, false", int: "integer", float: "number", str: "text", dict: "mapping",
    Any: "anything",
}  # fmt: skip


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Example:
        >>> print(table(["a", "b"], [["1", "x|y"]]))
        | a | b |
        | --- | --- |
        | 1 | x\\|y |
    """
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def configuration() -> str:
    """Every setting of the file by its path."""
    rows = [_setting(path, info) for path, info in settings(Config, "")]
    return table(["Setting", "Default", "Unit", "Allowed", "Meaning"], rows)


def settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """(path, declaration) of every setting below a section; NAME and N stand for any."""
    for name, info in model.model_fields.items():
        inner, suffix = _section(info.annotation)
        path = f"{prefix}{name}"
        if info.description or inner is None:
            yield path, info
        if inner is not None:
            yield from settings(inner, f"{path}{suffix}.")


def _section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section inside of a type, and how its place is written."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin = typing.get_origin(annotation)
    suffix = {tuple: ".N", dict: ".NAME"}.get(origin, "")
    if suffix or origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            found, more = _section(argument)
            if found is not None:
                return found, suffix + more
    return None, ""


def _setting(path: str, info: FieldInfo) -> list[str]:
    meaning = info.description or ""
    sentence = f"{meaning[:1].upper()}{meaning[1:].rstrip('.')}."
    return [f"`{path}`", _default(info), unit(info), _allowed(info), sentence]


def unit(info: FieldInfo) -> str:
    """The unit of a setting, or nothing."""
    extra = info.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel) or value in ((), {}):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"`{text}`"


def _allowed(info: FieldInfo) -> str:
    bounds = [
        form.format(getattr(each, name))
        for each in info.metadata
        for name, form in _BOUNDS.items()
        if getattr(each, name, None) is not None
    ]
    return ", ".join([_type(info.annotation), *bounds])


def _type(annotation: Any) -> str:
    """A type in words.

    Example:
        >>> _type(int | None), _type(tuple[str, ...]), _type(typing.Literal["a", "b"])
        ('integer, null', 'list of text', '`a`, `b`')
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (typing.Union, types.UnionType):
        return ", ".join(_type(each) for each in arguments)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    name = getattr(annotation, "__name__", str(annotation))
    return _TYPES.get(origin or annotation, "path" if name == "Path" else name)


def components() -> str:
    """Models, objectives, strategies and memories with their options."""
    return "\n\n".join(_component_kind(kind, package) for kind, package in PACKAGES.items())


def _component_kind(kind: str, package: str) -> str:
    blocks = [f"### {package.rpartition('.')[2].capitalize()}"]
    for name, component in sorted(catalogue(package).items()):
        blocks.append(f"#### `{name}`\n\n{component.summary}")
        blocks += options_of(component)
    return "\n\n".join(blocks)


def options_of(component: Component) -> list[str]:
    """The table of a component's options; nothing where it has none."""
    rows = [_setting(option, info) for option, info in settings(component.options, "")]
    return [table(["Option", "Default", "Unit", "Allowed", "Meaning"], rows)] if rows else []


def metrics() -> str:
    """Every metric that the service exposes."""
    rows = [
        [f"`{m.name}`", m.kind, m.unit or "", ", ".join(f"`{x}`" for x in m.labels), m.meaning]
        for m in METRICS
    ]
    return table(["Metric", "Kind", "Unit", "Labels", "Meaning"], rows)


def labels() -> str:
    """Every label of the metrics, and how many values it may have."""
    rows = [
        [f"`{each.name}`", each.meaning, ", ".join(f"`{v}`" for v in each.values),
         str(each.most_values)]
        for each in LABELS.values()
    ]  # fmt: skip
    return table(["Label", "Values", "There from the start", "At most"], rows)


def hooks() -> str:
    """Every event that a hook may listen to."""
    rows = [
        [f"`{event.name}`", event.meaning, _field_list(event.fields)] for event in EVENTS.values()
    ]
    rows.append(["each of them", "", _field_list(COMMON_FIELDS)])
    return table(["Event", "When", "Carries"], rows)


def _field_list(fields: Mapping[str, str]) -> str:
    return "; ".join(f"`{name}`: {meaning}" for name, meaning in fields.items())


def alerts() -> str:
    """Every kind of alert."""
    return table(["Kind", "Meaning"], [[f"`{kind}`", text] for kind, text in ALERTS.items()])


def commands() -> str:
    """Every control command."""
    rows = [
        [
            f"`{each.name}`",
            each.meaning,
            "; ".join(f"`{a.name}` ({json.dumps(a.default)}): {a.meaning}" for a in each.arguments),
            each.result,
        ]
        for each in COMMANDS.values()
    ]
    return table(["Command", "What it does", "Arguments (default)", "Result"], rows)


def addresses() -> str:
    """Every address of the HTTP server."""
    return table(["Address", "Answer"], [[f"`{a}`", meaning] for a, meaning in ADDRESSES.items()])


def exit_code_table() -> str:
    """Every exit code of the command line."""
    return table(
        ["Code", "Meaning"], [[str(code), text] for code, text in exit_codes.MEANINGS.items()]
    )


def command_line() -> str:
    """Every command of `insitu`, as its `--help` tells it."""
    from insitu_service.cli.run import insitu

    return "\n\n".join(
        f"### `{path}`\n\n```text\n{text}\n```" for path, text in _helps(insitu, "insitu", None)
    )


def _helps(
    command: click.Command, path: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    # a fixed width, whatever the terminal is; no variables of the environment
    context = click.Context(
        command, info_name=path.rpartition(" ")[2], parent=parent, max_content_width=88,
        terminal_width=88, **command.context_settings,
    )  # fmt: skip
    yield path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _helps(inner, f"{path} {name}", context)


#: Table name -> what makes it.
TABLES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "components": components,
    "metrics": metrics,
    "labels": labels,
    "hooks": hooks,
    "alerts": alerts,
    "commands": commands,
    "addresses": addresses,
    "exit-codes": exit_code_table,
    "command-line": command_line,
}
