"""A stream of tasks as a program: its options by name, its pushes to one or more services."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from insitu.errors import InsituError
from insitu_producers.sources.feed import argument_parser, run
from insitu_producers.sources.options import checked, listed, options_of, read_words
from insitu_producers.sources.task_stream import TaskStream


def push_stream(
    module: str,
    description: str,
    stream_name: str,
    factory: Callable[..., TaskStream],
    argv: Sequence[str] | None,
) -> int:
    """Read the command line, make the stream, push it; returns the exit code."""
    options = options_of(factory)
    parser = argument_parser(module, description, stream=stream_name)
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE; see --list")
    parser.add_argument("--list", action="store_true", help="name all options and end")
    parser.add_argument("--joint", action="store_true", help="all tasks as one, shuffled")
    if "--list" in (sys.argv[1:] if argv is None else argv):
        print(listed(options))
        return 0
    arguments = parser.parse_args(argv)
    try:
        values = checked(module, options, read_words(arguments.option))
        stream = factory(seed=arguments.seed, **values)
    except InsituError as error:
        print(error, file=sys.stderr)
        return 2
    return run(stream.joined(arguments.seed) if arguments.joint else stream, arguments)
