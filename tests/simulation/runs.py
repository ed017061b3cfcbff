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
        self.resumed = self.left_out_rows = self.lost_fences = 0
        self._known: set[int] = set()  # lives that an earlier life of the service knew
        #: producers of which two runs came in, as the service lost the fence: no place is sure
        self._astray: set[str] = set()
        self._reached_once: dict[str, int] = {}  # by producer id, in any life of the service

    def service_ends(self, lineage: Lineage) -> None:
        self._known.update(lineage.settled)

    def is_told(self, life: Life, position: Position, lineage: Lineage) -> None:
        """The service has noted where a run begins that knows of nothing yet."""
        told = position.cursor or 0
        assert isinstance(told, int)
        reached = self._reached(life.producer_id, lineage)
        begins = told + position.rows
        what = f"{life.producer_id} is to begin at row {begins} of the simulation, not {reached}"
        require(begins == reached or life.producer_id in self._astray, what)

    def join(self, life: Life, noted: int, lineage: Lineage, *, may_be_lost: bool) -> None:
        """The first batch of a run is settled.

        Args:
            noted: the row at which the service has said that it begins. That may be more than its
                producer knows, when rows of a former run came in between; it lets go of these.
        """
        require(life.base is not None, f"{life.producer_id} has a batch and was told nothing")
        assert life.base is not None
        begun = max(life.begun, noted)
        begins, reached = life.base + begun, self._reached(life.producer_id, lineage)
        what = f"{life.producer_id} begins at row {begins} of the simulation, not {reached}"
        if life.producer_id in self._astray:
            pass
        elif begins > reached:
            require(may_be_lost and begins <= self._reached_once.get(life.producer_id, 0), what)
        elif begins < reached:
            # the service has lost the fence, and a former run that still lived came in before it
            require(may_be_lost and life.number in self._known, what)
            self.lost_fences += 1
            self._astray.add(life.producer_id)
        lineage.joined.setdefault(life.producer_id, []).append(life)
        lineage.begun[life.number] = begun
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
        return range(lineage.begun[life.number])
    return range(lineage.settled.get(life.number, 0))


def has_joined(life: Life, lineage: Lineage) -> bool:
    """Whether a batch of this life is settled; of one that does not resume it does not matter."""
    return not life.resumes or life in lineage.joined.get(life.producer_id, ())
