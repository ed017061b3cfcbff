"""From a source's pushes to one or more services: the part that all sources share."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu.errors import InsituError
from insitu_producers import Producer, WaitTimeoutError
from insitu_producers.credentials import read_secret

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Push:
    """What goes into one `Producer.push`: arrays whose first axis is rows, and their meaning.

    Args:
        evaluate: the rows are held out: measured, never trained.
        cursor: where the source stands, such as the simulation's step.
    """

    fields: Arrays
    task: str
    evaluate: bool = False
    cursor: int = 0

    @property
    def rows(self) -> int:
        return len(next(iter(self.fields.values())))


def split(arrays: Arrays, rows_per_push: int) -> Iterator[Arrays]:
    """The same rows in pieces of at most `rows_per_push`.

    Example:
        >>> [len(piece["x"]) for piece in split({"x": np.zeros((5, 3))}, 2)]
        [2, 2, 1]
    """
    rows = len(next(iter(arrays.values())))
    for start in range(0, rows, rows_per_push):
        yield {name: array[start : start + rows_per_push] for name, array in arrays.items()}


def paced(pushes: Iterable[Push], rows_per_second: float) -> Iterator[Push]:
    """The pushes, held back so that their rows come at `rows_per_second`; 0 is no limit."""
    due = time.monotonic()
    for push in pushes:
        yield push
        if rows_per_second:
            due = max(due + push.rows / rows_per_second, time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))


def argument_parser(module: str, description: str, *, stream: str) -> argparse.ArgumentParser:
    """The arguments that every source takes; a source adds its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--endpoint",
        action="append",
        required=True,
        help="address of a service, such as tcp://127.0.0.1:5555; several get the same stream",
    )
    parser.add_argument("--stream", default=stream, help="name of the stream")
    parser.add_argument("--producer-id", default=f"{stream}-source", help="name of this producer")
    parser.add_argument("--token-file", help="file with the secret that the service asks for")
    parser.add_argument("--server-key", default="", help="public key of a service that has one")
    parser.add_argument("--secret-key-file", help="file with our secret key for such a service")
    parser.add_argument("--rate", type=float, default=0.0, help="rows per second; 0 is no limit")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds to wait for room or for the service"
    )
    return parser


def feed(pushes: Iterable[Push], arguments: argparse.Namespace) -> int:
    """Push everything to every endpoint and wait until it was accepted; returns rows pushed.

    Raises:
        ProducerError: a service refuses the stream, or had no room for too long.
    """
    rows = 0
    with ExitStack() as stack:
        producers = [
            stack.enter_context(
                Producer(
                    endpoint,
                    stream=arguments.stream,
                    producer_id=arguments.producer_id,
                    when_full="block",
                    block_timeout_seconds=arguments.timeout,
                    linger_seconds=min(10.0, arguments.timeout),
                    token=read_secret(arguments.token_file) if arguments.token_file else "",
                    server_key=arguments.server_key,
                    secret_key_file=arguments.secret_key_file,
                )
            )
            for endpoint in arguments.endpoint
        ]
        for push in paced(pushes, arguments.rate):
            for producer in producers:
                taken = producer.push(
                    push.fields, task=push.task, evaluate=push.evaluate, cursor=push.cursor
                )
                if not taken:
                    raise WaitTimeoutError(
                        f"a push found no room for {arguments.timeout:g} s",
                        consequence=f"the source ends after {rows} samples",
                        remedy="is the service running and learning? see its status, and --timeout",
                    )
            rows += push.rows
        for producer in producers:
            producer.flush(timeout_seconds=arguments.timeout)
    return rows


def run(pushes: Iterable[Push], arguments: argparse.Namespace) -> int:
    """`feed` as a program: says what was done, and an error in one line; returns the exit code."""
    start = time.monotonic()
    try:
        rows = feed(pushes, arguments)
    except InsituError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{rows} samples accepted in {time.monotonic() - start:.1f} s")
    return 0


def need_extra(module: str, extra: str, error: ImportError) -> str:
    """What to say when a source's library is absent."""
    return f"{module} needs {error.name}; remedy: pip install 'insitu[{extra}]'"
