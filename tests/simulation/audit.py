"""Looking at every row that the service knows: it is in one place, or gone for a reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from insitu.stream.log.record import Kind
from simulation.learner import Record
from simulation.life import Broken, Life, require
from simulation.lineage import Lineage
from simulation.runs import left_out
from simulation.samples import SCHEMA, read
from simulation.service import Service


def audit_service(
    service: Service, lives: Sequence[Life], lineage: Lineage, when_full: str
) -> None:
    """What is settled and nowhere was dropped by the buffer, and nothing else was."""
    waiting, refusals_waiting = waiting_rows(service)
    missing = sum(
        _missing(life, lineage, service.record, waiting.get(life.number, set())) for life in lives
    )
    dropped = service.dropped + refusals_waiting
    refused = sum(map(len, lineage.refused.values()))
    require(not dropped or when_full != "block", f"{dropped} rows were dropped")
    if when_full == "drop_newest":
        require(refused == dropped, f"{dropped} rows were dropped, {refused} refused")
        dropped = 0
    require(missing == dropped, f"{missing} rows are missing, {dropped} were dropped")


def _missing(life: Life, lineage: Lineage, record: Record, waiting: set[int]) -> int:
    """How many settled rows are nowhere, and not quarantined, lost, refused, or never sent."""
    number = life.number
    settled = lineage.settled.get(number, 0)
    drawn, probed = record.drawn.get(number, set()), record.probed.get(number, set())
    if not (waiting.isdisjoint(drawn) and waiting.isdisjoint(probed)):
        raise Broken(f"doubled: {waiting & (drawn | probed)} are here again")
    gone = lineage.lost.get(number, set()) | lineage.refused.get(number, set())
    absent = gone | life.dropped | life.poisoned | set(left_out(life, lineage))
    for present in (waiting, drawn, probed):
        if max(present, default=-1) >= settled:
            raise Broken(f"{present} came without a position")
        if not absent.isdisjoint(present):
            raise Broken(f"{absent & present} came and may not have")
    here = len(waiting) + len(drawn) + len(probed)
    return settled - here - len([row for row in absent if row < settled])


def waiting_rows(service: Service, *, probes: bool = True) -> tuple[dict[int, set[int]], int]:
    """Rows in the ring, in the log behind it, and probes that wait, by life; rows refused there."""
    buffer, refused = service.buffer, 0
    rows = read(buffer._ring.records["id"][buffer._scheduler.held()])
    for probe in service.probes._batches if probes else ():
        rows += read(probe.batch.fields["id"].numpy())
    if service.log is not None and buffer.place.record < service.log.appended:
        reader = service.log.reader(buffer.place.record)
        while (record := reader.next()) is not None:
            if record.kind in (Kind.BATCH, Kind.PROBE):
                ids = np.frombuffer(record.payload, SCHEMA.numpy_row)["id"]
                rows += read(ids if record.keep is None else ids[record.keep])
            elif record.kind == Kind.REFUSE:
                refused += record.rows
        reader.close()
    require(len(set(rows)) == len(rows), "a row waits twice")
    found: dict[int, set[int]] = {}
    for life, row in rows:
        found.setdefault(life, set()).add(row)
    return found, refused
