"""Options of a source by name: read from a function's signature, set from words of text.

A factory declares its options as keyword-only parameters, `Annotated[type, "what it means"]` with
a default, and nowhere else.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insitu.errors import OperatorError, did_you_mean

_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter: its type, default and meaning."""

    name: str
    type: type
    default: Any
    meaning: str

    def read(self, word: str) -> Any:
        """The value that a word stands for.

        Raises:
            OperatorError: it stands for none of this type.
        """
        try:
            return _WORDS[word.lower()] if self.type is bool else self.type(word)
        except (ValueError, KeyError):
            raise OperatorError(
                f"option {self.name} is {word!r}", allowed=f"a value of type {self.type.__name__}"
            ) from None


def options_of(factory: Callable[..., Any], *, but: Iterable[str] = ("seed",)) -> dict[str, Option]:
    """The options of a factory by name, without those that are handed in.

    Example:
        >>> from typing import Annotated
        >>> def factory(*, seed: int, tasks: Annotated[int, "how many"] = 5): ...
        >>> options_of(factory)["tasks"]
        Option(name='tasks', type=<class 'int'>, default=5, meaning='how many')
    """
    hints = typing.get_type_hints(factory, include_extras=True)
    found = {}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in but:
            continue
        declared, meaning = typing.get_args(hints[parameter.name])
        found[parameter.name] = Option(parameter.name, declared, parameter.default, meaning)
    return found


def read_words(words: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` words by name.

    Example:
        >>> read_words(["tasks=3", "data=a=b"])
        {'tasks': '3', 'data': 'a=b'}
    """
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise OperatorError(f"option {word!r}", allowed="NAME=VALUE")
        pairs[name.replace("-", "_")] = value
    return pairs


def checked(what: str, options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, read where they are text.

    Raises:
        OperatorError: there is no such option, or the value is none of its type.
    """
    values = {}
    for name, value in given.items():
        if name not in options:
            raise OperatorError(
                f"{what} has no option {name!r}",
                allowed=", ".join(options) or "none",
                remedy=did_you_mean(name, options),
            )
        text = isinstance(value, str) and options[name].type not in (str, Path)
        values[name] = options[name].read(value) if text else value
    return values


def listed(options: Mapping[str, Option]) -> str:
    """A line for each option: name, default and meaning."""
    return "\n".join(
        f"  {option.name}={option.default}  {option.meaning}" for option in options.values()
    )
