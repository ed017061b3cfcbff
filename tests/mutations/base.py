"""A mutation: one essential term of a method taken out, and the tests that must notice."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mutation:
    """What is replaced by what.

    Args:
        target: `package.module:attribute` or `package.module:Class.attribute`, where it is looked
            up when it is called.
        replacement: put in its place; a method's takes `self`.
        tests: file of which at least one test must fail then, from the root of the repository.
    """

    target: str
    replacement: Any
    tests: str

    def apply(self) -> None:
        """Put the replacement in place, for the rest of this process."""
        module_name, _, path = self.target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *parents, attribute = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        if not hasattr(owner, attribute):
            raise AttributeError(f"{self.target}: there is no such attribute to take out")
        setattr(owner, attribute, self.replacement)


def mutations() -> Mapping[str, Mutation]:
    """All of them by name, from every module of this folder that has `MUTATIONS`."""
    found: dict[str, Mutation] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = importlib.import_module(f"mutations.{path.stem}")
        for name, mutation in getattr(module, "MUTATIONS", {}).items():
            assert name not in found, f"two mutations are called {name!r}"
            found[name] = mutation
    return found


def constantly(value: Any) -> Callable[..., Any]:
    """A function that ignores what it is given."""
    return lambda *_args, **_options: value
