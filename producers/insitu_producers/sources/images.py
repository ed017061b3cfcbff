"""A set of labelled images as a stream of tasks, seen once.

    python -m insitu_producers.sources.images --set digits --scenario class_incremental \\
        --endpoint tcp://127.0.0.1:5555

Sets: `insitu_producers/images/`; scenarios: `insitu_producers/scenarios/`; `--list` names both with
their options. Fields: `x` [channels, height, width] as the set holds it, `y` int64. Held-out images
are pushed with `evaluate=True` under the tasks that they measure.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from insitu.errors import InsituError
from insitu_producers.images.labelled import LabelledImages
from insitu_producers.sources.declared import find, names
from insitu_producers.sources.feed import argument_parser, need_extra, run
from insitu_producers.sources.options import Option, checked, listed, options_of, read_words
from insitu_producers.sources.task_stream import TaskStream

MODULE = "insitu_producers.sources.images"


def load_images(
    name: str,
    *,
    seed: int,
    data: Annotated[str, "where the files lie: a directory or an archive"] = "",
    cache: Annotated[str, "directory that decoded images are kept in"] = "",
    held_out_ratio: Annotated[float, "held out of a set that holds nothing out itself"] = 0.2,
    images_per_class: Annotated[int, "at most so many to train; 0: all"] = 0,
    held_out_per_class: Annotated[int, "at most so many held out; 0: all"] = 0,
) -> LabelledImages:
    """A set by its name, with a part held out."""
    load = find("images", name)
    images: LabelledImages = load(Path(data) if data else None, Path(cache) if cache else None)
    generator = np.random.default_rng((seed, 1))
    images = images.with_held_out(held_out_ratio, generator)
    return images.at_most(images_per_class, held_out_per_class, generator)


def image_stream_options(scenario: str) -> dict[str, Option]:
    """All options of a scenario over a set, by name."""
    return {**options_of(load_images), **options_of(find("scenarios", scenario), but=_GIVEN)}


#: what a scenario gets from us, not from the command line
_GIVEN = ("seed", "scenario")


def image_stream(name: str, scenario: str, *, seed: int, options: Mapping[str, Any]) -> TaskStream:
    """The stream of a set in a scenario; see `catalogue.open_stream`."""
    of_set = options_of(load_images)
    images = load_images(name, seed=seed, **{k: v for k, v in options.items() if k in of_set})
    rest = {key: value for key, value in options.items() if key not in of_set}
    stream: TaskStream = find("scenarios", scenario)(images, seed=seed, **rest)
    return stream


def describe() -> str:
    """Sets and scenarios with their options, for people."""
    lines = [f"sets: {', '.join(names('images'))}", listed(options_of(load_images))]
    for scenario in names("scenarios"):
        lines += [f"{scenario}:", listed(options_of(find("scenarios", scenario), but=_GIVEN))]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    if "--list" in (sys.argv[1:] if argv is None else argv):
        print(describe())
        return 0
    parser = argument_parser(MODULE, "push images, task by task", stream="images")
    parser.add_argument("--set", choices=names("images"), default="digits", help="the images")
    parser.add_argument(
        "--scenario", choices=names("scenarios"), default="class_incremental", help="the tasks"
    )
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE; see --list")
    parser.add_argument("--list", action="store_true", help="name all options and end")
    parser.add_argument("--joint", action="store_true", help="all tasks as one, shuffled")
    arguments = parser.parse_args(argv)
    try:
        options = checked(
            MODULE, image_stream_options(arguments.scenario), read_words(arguments.option)
        )
        stream = image_stream(
            arguments.set, arguments.scenario, seed=arguments.seed, options=options
        )
    except ImportError as error:
        print(need_extra(MODULE, "demo", error), file=sys.stderr)
        return 2
    except InsituError as error:
        print(error, file=sys.stderr)
        return 2
    return run(stream.joined(arguments.seed) if arguments.joint else stream, arguments)


if __name__ == "__main__":
    sys.exit(main())
