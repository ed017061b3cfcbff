"""Streams of tasks by name: image sets, scenarios and simulations, each found by its file.

`digits/class_incremental` is an image set and a scenario, `eight_gaussians` a stream of its own.
A set is a module of `insitu_producers.images` with an `IMAGE_SET`, a scenario one of
`insitu_producers.scenarios` with a `SCENARIO`, and a stream one of `insitu_producers.sources` with
a `STREAM`; adding one means adding a file.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from insitu.errors import OperatorError, did_you_mean
from insitu_producers.sources.options import checked, options_of
from insitu_producers.sources.task_stream import TaskStream

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


def stream_names() -> list[str]:
    """Every name that `open_stream` knows."""
    pairs = [
        f"{images}/{scenario}" for images in names("images") for scenario in names("scenarios")
    ]
    return [*names("sources"), *pairs]


def open_stream(name: str, *, seed: int, options: Mapping[str, Any] | None = None) -> TaskStream:
    """A stream by its name, `SET/SCENARIO` or the name of a source.

    Args:
        seed: of all its random choices.
        options: of the stream, by name; text is read as what the option is.

    Raises:
        OperatorError: there is no such stream or option, or the data are not there.
        ImportError: a library that it needs is absent.

    Example:
        >>> stream = open_stream("eight_gaussians", seed=0, options={"steps": "2", "points": 64})
        >>> stream.tasks, stream.training_samples
        (('t=0.0', 't=0.3'), 128)
    """
    given = dict(options or {})
    if "/" not in name:
        factory = find("sources", name)
        values = checked(name, options_of(factory), given)
        stream: TaskStream = factory(seed=seed, **values)
        return stream
    images, _, scenario = name.partition("/")
    from insitu_producers.sources.images import image_stream, image_stream_options

    values = checked(name, image_stream_options(scenario), given)
    return image_stream(images, scenario, seed=seed, options=values)
