"""The inlet: how whatever ingest has received enters the stream.

`Inlet` leads straight into the buffer: what is acknowledged is in memory. `LoggedInlet`
(`insitu.stream.logged_inlet`) leads through the stream log first. Whoever receives knows only
this interface.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from insitu.batch import Batch
from insitu.stream.buffer import StreamBuffer
from insitu.stream.ring import Reservation
from insitu.stream.stamp import Position, Stamp, provenance

Keep = npt.NDArray[np.bool_]

#: takes held-out rows; False when it has no room for them now
ProbeSink = Callable[[Stamp, Batch], bool]


class Inlet:
    """Straight into the buffer. Used by the ingest thread only.

    Args:
        buffer: where samples go.
        probes: where held-out rows go.
    """

    def __init__(self, buffer: StreamBuffer, probes: ProbeSink) -> None:
        self._buffer = buffer
        self._probes = probes

    @property
    def capacity_samples(self) -> int:
        """Of the ring."""
        return self._buffer.capacity_samples

    def largest_reservation(self, batch_size: int) -> int:
        """See `StreamBuffer.largest_reservation`."""
        return self._buffer.largest_reservation(batch_size)

    @property
    def backlog_samples(self) -> int:
        """Accepted, and on their way into the buffer."""
        return 0

    @property
    def problem(self) -> str:
        """Why nothing can be accepted now, in words for the operator; empty when it can."""
        return ""

    def reserve(self, rows: int) -> Reservation | None:
        """Room for a batch that comes in; None when there is none. See `StreamBuffer.reserve`."""
        return self._buffer.reserve(rows)

    def abandon(self, reservation: Reservation) -> None:
        """Give back the room of a batch that is not complete."""
        self._buffer.abandon(reservation)

    def commit(self, reservation: Reservation, stamp: Stamp, *, keep: Keep | None = None) -> bool:
        """Take a complete batch in; `keep` says which rows.

        Returns:
            False when it must not be acknowledged and stays with its producer.

        Raises:
            ProducerError: its task is one too many; the reservation stays open.
        """
        return self._buffer.commit(reservation, stamp, keep=keep)

    def probe(self, reservation: Reservation, stamp: Stamp, *, keep: Keep | None = None) -> bool:
        """Take a complete batch of held-out rows in; see `commit`."""
        if self._buffer.is_shut:
            return False
        # first the probe, then its position: between the two a checkpoint loses nothing, and
        # what it then holds too early the examiner knows by its rows
        self._buffer.task_index(stamp.task)  # one too many raises here, not in the learner
        if not self._probes(stamp, probe_of(reservation, stamp, keep)):
            return False
        if not self._buffer.skip(stamp, reservation.rows):
            return False
        self._buffer.abandon(reservation)
        return True

    def skip(self, stamp: Stamp, rows: int) -> bool:
        """A batch that is settled without entering; False when it must not be acknowledged."""
        return self._buffer.skip(stamp, rows)

    def refuse(self, stamp: Stamp, rows: int) -> bool:
        """A batch that is dropped because the buffer is full.

        Raises:
            ProducerError: its task is one too many.
        """
        return self._buffer.refuse(stamp, rows)

    def leave(self, producer_id: str) -> None:
        """The producer said BYE or expired."""
        self._buffer.leave(producer_id)

    def end(self) -> None:
        """Nobody is connected any more: the stream is over, for now."""
        self._buffer.end()

    def reopen(self) -> None:
        """Somebody has come."""
        self._buffer.reopen()

    def position(self, producer_id: str) -> Position | None:
        """How far a producer has come; None when it never came."""
        return self._buffer.position(producer_id)

    def durable(self, producer_id: str, epoch: int) -> int:
        """Newest batch of a producer that survives power loss, with all before; 0 for none."""
        return 0

    def is_synced(self, producer_id: str) -> bool:
        """Whether all that is known of a producer survives power loss; True without a log."""
        return True

    def trained(self, producer_id: str, epoch: int) -> int:
        """Newest batch of a producer with which all are trained or given up; 0 for none."""
        return self._buffer.trained(producer_id, epoch)

    def free_samples(self) -> int:
        """Samples for which there is room now."""
        return self._buffer.free_samples()

    def producers_in_tasks(self) -> set[str]:
        """Who is in a task of the stream, or will be once what has been accepted has entered."""
        return self._buffer.producers_in_tasks()

    def tend(self) -> bool:
        """Do what waits to be done; True when there is more to do at once."""
        return False


def probe_of(reservation: Reservation, stamp: Stamp, keep: Keep | None) -> Batch:
    """Held-out rows, copied out of a reservation."""
    columns = torch.from_numpy(provenance(stamp, reservation.rows))
    if keep is not None:
        columns = columns[torch.from_numpy(keep)]
    return Batch(reservation.copied(keep), columns, len(columns))
