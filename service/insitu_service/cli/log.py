"""`insitu log`: what is in a stream log, whether it is whole, and getting at its rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from insitu_service import exit_codes

if TYPE_CHECKING:
    from insitu.stream.log.books import LogBooks
    from insitu.stream.log.walk import LogWalk

_directory = click.argument(
    "directory", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
_json = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
_checkpoint = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="CHECKPOINT_OR_DIRECTORY",
    help="A checkpoint, or a directory of which the newest good one is taken.",
)


@click.group()
def log() -> None:
    """Look into a stream log: the directory that log.directory names."""


@log.command()
@_directory
@_json
def info(directory: Path, as_json: bool) -> int:
    """Count what is in the log in DIRECTORY: segments, producers, batches, rows, times.

    Only headers are read; `verify` reads all. A service may be running.
    """
    walk, books = _read(directory, whole=False)
    if as_json:
        click.echo(json.dumps(_as_dict(walk, books), indent=2))
    else:
        click.echo(_text(walk, books))
        for segment in walk.segments:
            click.echo(
                f"{segment.name}  records {segment.first_record:,} to {segment.last_record:,}  "
                f"{segment.used_bytes:,} of {segment.size_bytes:,} bytes  "
                f"{_time(segment.created_at_ns)}"
            )
    return exit_codes.OK


@log.command()
@_directory
@_checkpoint
@_json
def verify(directory: Path, checkpoint: Path | None, as_json: bool) -> int:
    """Read every byte of the log in DIRECTORY, and say what is wrong with it.

    Digests, numbers, the chain, and that no producer's batch is missing or doubled. With
    --checkpoint also that every row that was accepted up to it entered the weights exactly once,
    was dropped, or waits in the checkpoint. Exit code 6 when something is wrong; a torn tail,
    which the next start of the service cuts off, is not.
    """
    from insitu_service.stream_log.check import Comparison, compare, read_audit

    audit = None if checkpoint is None else read_audit(checkpoint)
    walk, books = _read(directory, whole=True, upto_record=0 if audit is None else audit.record)
    compared = Comparison() if audit is None else compare(audit, books)
    flaws = [*walk.flaws, *books.flaws, *compared.flaws]
    if as_json:
        found = {"flaws": flaws, "checkpoint": None, "audit": compared.rows}
        if audit is not None:
            found["checkpoint"] = str(audit.path)
        click.echo(json.dumps(_as_dict(walk, books) | found, indent=2))
    else:
        click.echo(_text(walk, books))
        if audit is not None and compared.rows:
            click.echo(f"{audit.path.name}: {compared.rows}")
        for flaw in flaws:
            click.echo(f"wrong: {flaw}", err=True)
        click.echo(f"{len(flaws)} flaws" if flaws else "no flaws")
    return exit_codes.CHECKPOINT if flaws else exit_codes.OK


@log.command()
@_directory
@click.option("--from", "from_record", type=click.IntRange(1), default=1, show_default=True)
@click.option("--to", "to_record", type=click.IntRange(1), default=None, help="Default: the last.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.npz",
    help="What to write; replaced when it is there.",
)
def export(directory: Path, from_record: int, to_record: int | None, output: Path) -> int:
    """Write the rows of records --from to --to as arrays, one a field, for numpy.load.

    Arrays whose names begin with @ tell of each row where it comes from: @record, @row, @kind,
    @kept, @producer, @task, @epoch, @seq, @producer_row, @produced_at_ns, @sample_id, @flags.
    What is damaged is left out and told; the exit code is 6 then.
    """
    from insitu.stream.log.disk import FileSystemDisk
    from insitu.stream.log.export import export_rows

    disk = FileSystemDisk(directory, writable=False)
    partial = output.with_name(f".{output.name}.partial")
    try:
        rows, walk = export_rows(disk, partial, from_record, to_record or 2**63)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
        disk.close()
    click.echo(f"wrote {rows:,} rows of {len(walk.schema.fields)} fields to {output}")
    for flaw in walk.flaws:
        click.echo(f"wrong: {flaw}", err=True)
    return exit_codes.CHECKPOINT if walk.flaws else exit_codes.OK


@log.command()
@_directory
@_checkpoint
@click.confirmation_option(
    prompt="Records behind the first damage are removed, and their samples lost. Go on?"
)
def cut(directory: Path, checkpoint: Path | None) -> int:
    """Remove everything from the first damage on in DIRECTORY, so that a service starts again.

    With --checkpoint only what lies behind it is looked at. The service must not be running.
    """
    from insitu.stream.log.disk import FileSystemDisk
    from insitu.stream.log.stream_log import StreamLog
    from insitu.stream.log.walk import LogWalk
    from insitu_service.stream_log.check import read_audit

    audit = None if checkpoint is None else read_audit(checkpoint)
    disk = FileSystemDisk(directory)
    try:
        walk = LogWalk(disk)
        after, chain = (audit.record, audit.chain) if audit else (walk.first_record - 1, None)
        stream_log = StreamLog(disk, walk.schema)
        recovery = stream_log.recover(
            after, lambda _record: None, after_chain=chain, cut_damage=True
        )
        stream_log.sync()
        stream_log.close()
    finally:
        disk.close()
    if recovery.torn_bytes:
        click.echo(f"cut {recovery.torn_bytes:,} bytes: {recovery.torn_reason}")
    click.echo(f"the log ends with record {recovery.appended:,}")
    return exit_codes.OK


def _read(directory: Path, *, whole: bool, upto_record: int = 0) -> tuple[LogWalk, LogBooks]:
    from insitu.stream.log.books import LogBooks
    from insitu.stream.log.disk import FileSystemDisk
    from insitu.stream.log.walk import LogWalk

    disk = FileSystemDisk(directory, writable=False)
    try:
        walk, books = LogWalk(disk), LogBooks(upto_record)
        for record in walk.records(whole=whole):
            books.add(record)
    finally:
        disk.close()
    return walk, books


def _text(walk: LogWalk, books: LogBooks) -> str:
    fields = ", ".join(f"{f.name} {f.dtype}{list(f.shape)}" for f in walk.schema.fields)
    kinds = ", ".join(f"{count:,} {kind.name}" for kind, count in books.kinds.items() if count)
    lines = [
        f"fields: {fields}",
        f"{books.records:,} records in {len(walk.segments):,} segments: {kinds or 'none'}",
    ]
    if books.records:
        lines += [
            f"records {books.first_record:,} to {books.last_record:,}, "
            f"{books.payload_bytes:,} bytes of rows, chain {books.chain:#018x}",
            f"from {_time(books.first_at_ns)} to {_time(books.last_at_ns)}",
        ]
    for name, each in sorted(books.producers.items()):
        lines.append(
            f"producer {name}: batches {each.first} to {each.last} (epoch, batch) in {each.lives} "
            f"lives, {each.batches:,} batches, {each.rows:,} rows, {each.probe_rows:,} probes, "
            f"{each.quarantined_rows:,} quarantined, {each.refused_rows:,} refused, "
            f"{each.missing_rows:,} never sent"
        )
    if walk.torn_reason:
        lines.append(
            f"torn tail: {walk.torn_bytes:,} bytes behind record {walk.number:,} "
            f"({walk.torn_reason}); being written, or cut off at the next start"
        )
    return "\n".join(lines)


def _as_dict(walk: LogWalk, books: LogBooks) -> dict[str, Any]:
    return {
        "fields": walk.schema.as_wire(),
        "first_record": books.first_record,
        "last_record": books.last_record,
        "chain": f"{books.chain:#018x}",
        "first_at_ns": books.first_at_ns,
        "last_at_ns": books.last_at_ns,
        "payload_bytes": books.payload_bytes,
        "kinds": {kind.name: count for kind, count in books.kinds.items()},
        "producers": {name: asdict(each) for name, each in sorted(books.producers.items())},
        "segments": [asdict(segment) for segment in walk.segments],
        "torn": {"bytes": walk.torn_bytes, "reason": walk.torn_reason},
    }


def _time(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds")
