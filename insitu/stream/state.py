"""The parts of the stream buffer's state that are plain numbers, and the checks on loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from insitu.errors import OperatorError
from insitu.schema import Schema
from insitu.stream.stamp import Position

_KEYS = {
    "schema", "scheduler", "positions", "producers", "ended", "rows", "provenance", "log", "audit",
    "batches", "places",
}  # fmt: skip
_SCHEDULER_KEYS = {"policy", "pace", "arrivals", "ledger", "counters", "generator", "ending"}


@dataclass
class Counters:
    """Samples since the start of the stream.

    Args:
        reserved: in reservations at this moment; not part of the state.
        received: committed or refused.
        inserted: admitted by the pace, without those dropped afterwards.
        paced: rows drawn, as the pace counts them (see `insitu.stream.pacing`).
        drawn: rows drawn, with repetitions; `drawn_first` without.
        dropped: given up without being drawn.
        evicted: seen samples let go.
    """

    reserved: int = 0
    received: int = 0
    inserted: int = 0
    paced: int = 0
    drawn: int = 0
    drawn_first: int = 0
    dropped: int = 0
    evicted: int = 0

    def state_dict(self) -> dict[str, int]:
        return asdict(self) | {"reserved": 0}


def of_positions(positions: Mapping[str, Position]) -> list[list[Any]]:
    return [
        [name, p.epoch, p.seq, p.rows, p.cursor, p.rows_behind_cursor]
        for name, p in positions.items()
    ]


def to_positions(state: list[list[Any]]) -> dict[str, Position]:
    return {name: Position(*rest) for name, *rest in state}


def check(state: Mapping[str, Any], schema: Schema, policy: str, capacity_samples: int) -> None:
    """Refuse a state that does not fit this buffer, and say by name what does not."""
    for found, wanted in ((state, _KEYS), (state.get("scheduler", {}), _SCHEDULER_KEYS)):
        if set(found) != wanted:
            _refuse(f"the saved stream buffer has wrong keys: {sorted(set(found) ^ wanted)}")
    theirs = Schema.of({name: (dtype, tuple(shape)) for name, dtype, shape in state["schema"]})
    if theirs != schema:
        _refuse(f"the saved stream buffer is of another schema: {schema.difference(theirs)}")
    saved_policy = ", ".join(state["scheduler"]["policy"])
    if saved_policy != policy:
        _refuse(f"the saved buffer policy is {saved_policy}, the configured one is {policy}")
    if len(state["rows"]) > capacity_samples:
        _refuse(
            f"the saved stream buffer holds {len(state['rows'])} samples, "
            f"buffer.capacity_samples is {capacity_samples}"
        )


def _refuse(message: str) -> None:
    raise OperatorError(
        message,
        consequence="it cannot be resumed",
        remedy="resume with the configuration that it was saved with",
    )
