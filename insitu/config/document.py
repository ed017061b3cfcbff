"""Reading YAML into plain data, with the line of every value, and writing it.

This is the core schema of YAML 1.2, not PyYAML's 1.1: `on`, `off`, `yes` and `no` are words
(`on:` names the event of a hook), `1e-3` is a number, dates are words, and keys are always
text. Tags are refused, so a document can make nothing but text, numbers, booleans, null,
lists and mappings. A key that stands twice is an error, because one of the two would be lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from insitu.config.problem import ConfigError, Path, Problem

#: a longer number is read as a float: Python reads no whole number of so many digits
_MAX_DIGITS = 1000
_INTEGER = re.compile(r"[-+]?\d+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{s + w: float(f"{s}inf") for s in ("", "+", "-") for w in (".inf", ".Inf", ".INF")},
}
#: What a loader without types gives to a node that carries no tag.
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map")}
_MAX_DEPTH = 64
_MAX_VALUES = 100_000  # of a document that grows by aliases


@dataclass
class Document:
    """Plain data, and the line (from 1) on which the value at each path stands."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) word.

    Example:
        >>> [scalar(text) for text in ("1e-3", "on", "true", "0x10", "12", "~")]
        [0.001, 'on', True, 16, 12, None]
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MAX_DIGITS and _INTEGER.fullmatch(text):
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        return int(text, base)
    return float(text) if _FLOAT.fullmatch(text) else text


def parse(text: str, source: str) -> Document:
    """Read one YAML document; `ConfigError` names all repeated keys, or the syntax error."""
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ConfigError([Problem((), _syntax(error))], source) from None
    except RecursionError:
        raise ConfigError([Problem((), "is nested too deep")], source) from None
    builder = _Builder()
    document = Document(None if node is None else builder.value(node, ()), builder.lines)
    if builder.problems:
        raise ConfigError(builder.problems, source)
    return document


class _Dumper(yaml.SafeDumper):
    """PyYAML quotes what YAML 1.1 reads as something else than text; 1.2 has other numbers."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def written(data: Any, *, flow: bool | None = False) -> str:
    """Plain data as a YAML document that `parse` reads as the same data.

    Args:
        flow: lists and mappings in brackets: False for none, None for the innermost.

    Example:
        >>> print(written({"name": "1e3", "size": 1000.0}), end="")
        name: '1e3'
        size: 1000.0
    """
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=flow)
    return text


def _syntax(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).replace("\n", " ")
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark else what


class _Builder:
    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: Path) -> Any:
        if len(path) > _MAX_DEPTH or len(self.lines) > _MAX_VALUES:
            if not self.problems:
                self._problem(node, path[:3], "goes too deep, or an alias contains itself")
            return None
        self.lines[path] = node.start_mark.line + 1
        if node.tag not in _TAGS:
            self._problem(node, path, f"has the tag {node.tag!r}, which is not plain data")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return scalar(node.value) if node.style is None else node.value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, path, "has a key that is a list or a mapping")
            elif key.value in found:
                first = self.lines[(*path, key.value)]
                self._problem(key, (*path, key.value), f"stands twice, first on line {first}")
            else:
                found[key.value] = self.value(child, (*path, key.value))
                self.lines[(*path, key.value)] = key.start_mark.line + 1
        return found

    def _problem(self, node: yaml.Node, path: Path, message: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(path, message, origin=f"line {line}"))
