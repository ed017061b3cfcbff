"""Streams of tasks by name: `eight_gaussians`, or set and scenario, `digits/class_incremental`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insitu_producers.sources.declared import find, names
from insitu_producers.sources.images import image_stream, image_stream_options
from insitu_producers.sources.options import checked, options_of
from insitu_producers.sources.task_stream import TaskStream


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
    values = checked(name, image_stream_options(scenario), given)
    return image_stream(images, scenario, seed=seed, options=values)
