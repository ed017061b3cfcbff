"""`insitu push`: stream a file of arrays to a service, as a simulation would."""

from __future__ import annotations

import json
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from insitu.errors import OperatorError
from insitu_service import exit_codes


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--endpoint", default="tcp://127.0.0.1:5555", show_default=True)
@click.option("--stream", required=True, help="Name of the stream.")
@click.option("--producer-id", default=None, help="Who pushes; made from the file when left out.")
@click.option("--field", default="x", show_default=True, help="Field of the array in a .npy file.")
@click.option("--task", default="", help="Task that the samples belong to.")
@click.option("--evaluate", is_flag=True, help="Held-out samples: measured, never trained.")
@click.option("--rows-per-push", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Samples a second; as fast as it goes."
)
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="File with the stream's secret."
)
@click.option("--server-key", default="", help="Public key of a service that encrypts its stream.")
@click.option(
    "--secret-key-file", type=click.Path(path_type=Path), help="File with our secret key for it."
)
@click.option(
    "--timeout",
    "flush_seconds",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds to wait at the end until all is acknowledged.",
)
def push(
    source: Path,
    endpoint: str,
    stream: str,
    producer_id: str | None,
    field: str,
    task: str,
    evaluate: bool,
    rows_per_push: int,
    rate: float | None,
    repeat: int,
    token_file: Path | None,
    server_key: str,
    secret_key_file: Path | None,
    flush_seconds: float,
) -> int:
    """Push the arrays of FILE, rows first: .npz with one array a field, or .npy with one.

    The type and shape of every array must be those of the stream's fields. Prints the books of
    the producer; the exit code is 4 when the service did not take every sample.
    """
    from insitu.config.secrets import read_token
    from insitu_producers import Producer

    arrays = read_arrays(source, field)
    token = None if token_file is None else read_token(token_file)
    name = producer_id or f"push-{source.stem}"
    options: dict[str, Any] = {"server_key": server_key, "secret_key_file": secret_key_file}
    if token is not None:
        options["token"] = token
    with Producer(
        endpoint, stream=stream, producer_id=name, linger_seconds=0.5, **options
    ) as producer:
        for cursor, rows in enumerate(_paced(arrays, rows_per_push, rate, repeat), start=1):
            producer.push(rows, task=task, cursor=cursor, evaluate=evaluate)
        producer.flush(timeout_seconds=flush_seconds)
        books = producer.stats()
    shown = {
        "pushed_rows": books.pushed_rows,
        "acknowledged_rows": books.acknowledged_rows,
        "quarantined_rows": books.quarantined_rows,
        "dropped_rows": dict(books.dropped_rows),
        "acknowledged_bytes": books.acknowledged_bytes,
        "blocked_seconds": round(books.blocked_seconds, 3),
    }
    click.echo(json.dumps(shown))
    if books.acknowledged_rows == books.pushed_rows:
        return exit_codes.OK
    click.echo(f"not every sample was taken: {books.last_error or 'see the books'}", err=True)
    return exit_codes.UNREACHABLE


def read_arrays(source: Path, field: str) -> dict[str, Any]:
    """The arrays of a file by field, without unpickling anything.

    Raises:
        OperatorError: the file is missing, is no file of arrays, holds Python objects, or its
            arrays have different numbers of rows.
    """
    import numpy as np

    try:
        if source.suffix == ".npz":
            with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        elif source.suffix == ".npy":
            arrays = {field: np.load(source, mmap_mode="r", allow_pickle=False)}
        else:
            raise OperatorError(f"{source} is of no known type", allowed=".npz or .npy")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise OperatorError(f"{source} cannot be read: {reason}") from None
    rows = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        raise OperatorError(
            f"the arrays of {source} have these rows: {rows}",
            allowed="arrays of 1 row or more, all of the same number",
        )
    return arrays


def _paced(
    arrays: Mapping[str, Any], rows_per_push: int, rate: float | None, repeat: int
) -> Iterator[dict[str, Any]]:
    """Slices of the arrays, at most `rate` rows a second, with a progress bar on a terminal."""
    rows = len(next(iter(arrays.values())))
    starts = [start for _ in range(repeat) for start in range(0, rows, rows_per_push)]
    began, given = time.monotonic(), 0
    with click.progressbar(
        starts, label="pushing", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        for start in bar:
            piece = {name: each[start : start + rows_per_push] for name, each in arrays.items()}
            if rate is not None:
                time.sleep(max(0.0, began + given / rate - time.monotonic()))
            given += min(rows_per_push, rows - start)
            yield piece
