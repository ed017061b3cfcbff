"""A checkpoint against the log: did every accepted row enter the weights exactly once?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from insitu.checkpoint import NoGoodCheckpoint, newest_good, read_checkpoint
from insitu.checkpoint.directory import MANIFEST_NAME
from insitu.errors import OperatorError
from insitu.stream.audit import added, row_sum
from insitu.stream.log.books import LogBooks


@dataclass(frozen=True)
class BufferAudit:
    """What a checkpoint says of the rows that it took from the log.

    Args:
        path: of the checkpoint.
        record, chain: its place in the log.
        positions: (epoch, seq) of each producer.
        drawn, dropped, pending: (rows, sum) of those trained or under way, given up, waiting.
    """

    path: Path
    record: int
    chain: int
    positions: Mapping[str, tuple[int, int]]
    drawn: tuple[int, int]
    dropped: tuple[int, int]
    pending: tuple[int, int]


@dataclass
class Comparison:
    """What came out: `flaws` in words, and `rows` in one sentence."""

    flaws: list[str] = field(default_factory=list)
    rows: str = ""


def read_audit(path: Path) -> BufferAudit:
    """Of one checkpoint, or of the newest good one in a directory of them.

    Raises:
        CheckpointDamaged: the checkpoint is.
        NoGoodCheckpoint: none is there, or all are damaged.
        OperatorError: an older insitu wrote it, without an audit.
    """
    if (path / MANIFEST_NAME).is_file():
        state = read_checkpoint(path)[0]
    else:
        found = newest_good(path)
        if found is None:
            raise NoGoodCheckpoint(f"{path} is no checkpoint, and there is none in it")
        path, state = found.path, found.state
    try:
        return _audit(path, state["buffer"])
    except KeyError as error:
        raise OperatorError(
            f"checkpoint {path} has no audit of its rows: {error} is missing",
            allowed="one that a service with `log.directory` wrote",
        ) from None


def compare(audit: BufferAudit, books: LogBooks) -> Comparison:
    """Hold a checkpoint against the books on the log up to its record."""
    result = Comparison()
    if books.last_record < audit.record:
        result.flaws.append(
            f"the log ends with record {books.last_record:,}, before the checkpoint's "
            f"{audit.record:,}"
        )
        return result
    if books.chain_upto is None:
        result.rows = f"record {audit.record:,} is no longer in the log: nothing can be compared"
        return result
    if books.chain_upto != audit.chain:
        result.flaws.append(
            f"after record {audit.record:,} the log's chain is {books.chain_upto:#018x}, the "
            f"checkpoint's {audit.chain:#018x}: they hold other records"
        )
    for producer_id, position in books.positions.items():
        known = audit.positions.get(producer_id)
        if known != position:
            result.flaws.append(
                f"after record {audit.record:,} producer {producer_id!r} is at (epoch, batch) "
                f"{position} in the log, at {known} in the checkpoint"
            )
    _compare_rows(audit, books, result)
    return result


def _compare_rows(audit: BufferAudit, books: LogBooks, result: Comparison) -> None:
    if books.first_record > 1:
        result.rows = (
            f"records before {books.first_record:,} were released, so the rows cannot be audited; "
            "chain and positions were compared"
        )
        return
    parts = {"drawn": audit.drawn, "dropped": audit.dropped, "pending": audit.pending}
    count, total = 0, 0
    for rows, rows_sum in parts.values():
        count, total = count + rows, added(total, rows_sum)
    told = " + ".join(f"{rows:,} {name}" for name, (rows, _) in parts.items())
    if (count, total) == (books.accepted_rows, books.accepted_sum):
        result.rows = f"{books.accepted_rows:,} rows accepted = {told}, each exactly once"
    elif count != books.accepted_rows:
        result.flaws.append(f"{books.accepted_rows:,} rows were accepted, {told} is {count:,}")
    else:
        result.flaws.append(
            f"as many rows as were accepted, {count:,}, were drawn, dropped or are pending, but "
            "not the same ones: some twice, others never"
        )


def _audit(path: Path, state: Mapping[str, Any]) -> BufferAudit:
    audit, log = state["audit"], state["log"]
    return BufferAudit(
        path=path,
        record=log["record"],
        chain=log["chain"],
        positions={name: (epoch, seq) for name, epoch, seq, *_ in state["positions"]},
        drawn=(audit["drawn_rows"], audit["drawn_sum"]),
        dropped=(audit["dropped_rows"], audit["dropped_sum"]),
        pending=_pending(state),
    )


def _pending(state: Mapping[str, Any]) -> tuple[int, int]:
    """Rows that were never drawn: of the policy's the first ones, then all arrivals."""
    scheduler, places = state["scheduler"], state["places"].numpy()
    counters = scheduler["counters"]
    unseen = counters["received"] - counters["drawn_first"] - counters["dropped"]
    arrivals = sum(rows for _, _, rows in scheduler["arrivals"])
    waiting = np.concatenate((places[: unseen - arrivals], places[len(places) - arrivals :]))
    return len(waiting), row_sum(waiting[:, 0], waiting[:, 1])
