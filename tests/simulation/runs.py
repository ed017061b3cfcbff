"""Simulations that go on where they were left: what one run has brought, the next one leaves out.

`base` of a life is where its row 0 lies in the whole simulation. The service has all of a
simulation up to `reached`; a run may only bring what lies behind, and must bring all of it, unless
the service has gone back behind what an earlier life of it told.
"""

from __future__ import annotations

from insitu.stream.stamp import Position
from simulation.life import Life, require
from simulation.lineage import Lineage


class Runs:
    """The books of whole simulations, beside those of single lives."""

    def __init__(self) -> None:
        self.resumed = self.left_out_rows = 0
        self._reached_once: dict[str, int] = {}  # by producer id, in any life of the service

    def is_told(self, life: Life, position: Position, lineage: Lineage) -> None:
        """The service has noted where a run begins that knows of nothing yet."""
        told = position.cursor or 0
        assert isinstance(told, int)
        reached = self._reached(life.producer_id, lineage)
        begins = told + position.rows
        what = f"{life.producer_id} is to begin at row {begins} of the simulation, not {reached}"
        require(begins == reached, what)

    def join(self, life: Life, lineage: Lineage, *, may_be_lost: bool) -> None:
        """The first batch of a run is settled."""
        require(life.base is not None, f"{life.producer_id} has a batch and was told nothing")
        assert life.base is not None
        begins, reached = life.base + life.begun, self._reached(life.producer_id, lineage)
        lost = may_be_lost and begins <= self._reached_once.get(life.producer_id, 0)
        what = f"{life.producer_id} begins at row {begins} of the simulation, not {reached}"
        require(begins == reached or (begins > reached and lost), what)
        lineage.joined.setdefault(life.producer_id, []).append(life)
        self.resumed += begins > 0
        self.left_out_rows += life.begun

    def advance(self, life: Life, lineage: Lineage) -> None:
        """A life that has joined has come further."""
        reached = self._reached(life.producer_id, lineage)
        once = self._reached_once.get(life.producer_id, 0)
        self._reached_once[life.producer_id] = max(reached, once)

    def _reached(self, producer_id: str, lineage: Lineage) -> int:
        joined = lineage.joined.get(producer_id)
        if not joined:
            return 0
        assert joined[-1].base is not None
        return joined[-1].base + lineage.settled[joined[-1].number]


def left_out(life: Life, lineage: Lineage) -> range:
    """Rows that a run does not bring; before it has begun, those that are noted of it."""
    if not life.resumes:
        return range(0)
    if has_joined(life, lineage):
        return range(life.begun)
    return range(lineage.settled.get(life.number, 0))


def has_joined(life: Life, lineage: Lineage) -> bool:
    """Whether a batch of this life is settled; of one that does not resume it does not matter."""
    return not life.resumes or life in lineage.joined.get(life.producer_id, ())
