"""What files declare: image sets, scenarios and streams, each found by the name of its file.

A set is a module of `insitu_producers.images` with an `IMAGE_SET`, a scenario one of
`insitu_producers.scenarios` with a `SCENARIO`, and a stream one of `insitu_producers.sources` with
a `STREAM`; adding one means adding a file.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from insitu.errors import OperatorError, did_you_mean

_KINDS = {"images": "IMAGE_SET", "scenarios": "SCENARIO", "sources": "STREAM"}


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of one kind: `images`, `scenarios` or `sources`; read from the files alone."""
    root = Path(__file__).parent.parent / kind
    found = []
    for info in pkgutil.iter_modules([str(root)]):
        tree = ast.parse((root / f"{info.name}.py").read_text(encoding="utf-8"))
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        if any(isinstance(t, ast.Name) and t.id == _KINDS[kind] for t in targets):
            found.append(info.name)
    return tuple(found)


def find(kind: str, name: str) -> Callable[..., Any]:
    """What the module `name` of a kind declares.

    Raises:
        OperatorError: there is none.
    """
    if name not in names(kind):
        raise OperatorError(
            f"{kind} has no {name!r}",
            allowed=", ".join(names(kind)),
            remedy=did_you_mean(name, names(kind)),
        )
    module = importlib.import_module(f"insitu_producers.{kind}.{name}")
    return getattr(module, _KINDS[kind])  # type: ignore[no-any-return]
