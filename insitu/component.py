"""Named, optioned parts: how a line of configuration becomes a model, an objective, a strategy.

A component is a class or factory function whose signature is its whole declaration:

- positional parameters are *live parts* that the composition root hands in by name
  (`model`, `objective`, `memory`, `generator`, `schema`, ...);
- keyword-only parameters are *options* that the operator may set. Each is annotated with
  `Annotated[type, Field(description=..., ge=..., json_schema_extra={"unit": ...})]`, which is
  the only place where its range, unit and meaning are written: validation, the JSON schema and
  the documentation are all made from it. An option that is a model of its own may have
  `check_stream(schema)`, which refuses a stream that it does not fit before anything is built.

A component of ours is named after its file: `insitu/strategies/online_ewc.py` is `online_ewc`.
A user's own is named `package.module:factory` and follows the same convention; options without
an annotation are passed as they are. So adding a component means adding one file.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from insitu.errors import OperatorError
from insitu.schema import Schema


@dataclass(frozen=True)
class Component:
    """A named factory and what its signature says."""

    kind: str
    name: str
    factory: Callable[..., Any]
    parts: tuple[str, ...]
    options: type[BaseModel]

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with defaults filled in; all wrong ones named in one error."""
        try:
            return self.options.model_validate(dict(options)).__dict__.copy()
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']} (it is {e['input']!r})"
                if e["type"] != "extra_forbidden"
                else f"{'.'.join(map(str, e['loc']))}: no such option"
                for e in error.errors()
            )
            raise OperatorError(
                f"{self.kind} {self.name!r}: {problems}",
                allowed=", ".join(self.options.model_fields) or "no options",
            ) from None

    def build(self, options: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
        """The component, made from checked options and the live parts its signature asks for."""
        checked = self.check(options)
        missing = [part for part in self.parts if part not in parts]
        if missing:
            raise OperatorError(
                f"{self.kind} {self.name!r} asks for {', '.join(missing)}",
                allowed=f"positional parameters among {', '.join(sorted(parts))}",
                remedy="make every option of your factory keyword-only (after a `*`)",
            )
        if "schema" in parts:
            self.check_stream(checked, parts["schema"])
        return self.factory(*(parts[part] for part in self.parts), **checked)

    def check_stream(self, checked: Mapping[str, Any], schema: Schema) -> None:
        """Ask the options that have a say in it whether they fit the stream.

        Raises:
            OperatorError: one does not; it names component and option.
        """
        for name, value in checked.items():
            fits = getattr(value, "check_stream", None)
            if fits is None:
                continue
            try:
                fits(schema)
            except OperatorError as error:
                raise OperatorError(
                    f"{self.kind} {self.name!r}: {name}: {error.message}",
                    allowed=error.allowed,
                    consequence="the service does not start",
                    remedy=error.remedy,
                ) from None


def describe(kind: str, name: str, factory: Callable[..., Any]) -> Component:
    """Read a factory's signature into a `Component`."""
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target, include_extras=True)
    parts, options, open_ended = [], {}, False
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            options[parameter.name] = (hints.get(parameter.name, Any), default)
        elif parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif (
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        ):
            parts.append(parameter.name)
    model = create_model(
        f"{kind}_{name}_options",
        __config__=ConfigDict(
            extra="allow" if open_ended else "forbid",
            arbitrary_types_allowed=True,
            protected_namespaces=(),
        ),
        **options,  # type: ignore[call-overload]
    )
    return Component(kind, name, factory, tuple(parts), model)


@cache
def catalogue(package: str) -> Mapping[str, Component]:
    """Our components of one kind: every module of `package` that has a `COMPONENT`."""
    root = importlib.import_module(package)
    kind = package.rpartition(".")[2]
    found = {}
    for info in pkgutil.iter_modules(root.__path__):
        factory = getattr(importlib.import_module(f"{package}.{info.name}"), "COMPONENT", None)
        if factory is not None:
            found[info.name] = describe(kind, info.name, factory)
    return found


def find(package: str, name: str) -> Component:
    """The component called `name`: one of ours, or the user's own `package.module:factory`."""
    kind = package.rpartition(".")[2]
    if ":" not in name:
        ours = catalogue(package)
        if name not in ours:
            raise OperatorError(
                f"{kind} has no {name!r}",
                allowed=f"{', '.join(ours)}, or your own as package.module:factory",
            )
        return ours[name]
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise OperatorError(
            f"{kind} {name!r} cannot be imported: {error}",
            remedy="is its directory on PYTHONPATH, and is the name after ':' defined there?",
        ) from error
    return describe(kind, name, factory)
