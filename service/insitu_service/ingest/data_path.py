"""The path of the data: DATA messages into the ring, through the door, into the stream."""

from __future__ import annotations

import logging

import numpy as np

from insitu.batch import SampleFlag
from insitu.errors import ProducerError
from insitu.stream.inlet import Inlet
from insitu.stream.ring import Reservation
from insitu.stream.stamp import Stamp
from insitu.wire.messages import Data, Nack, NackCode
from insitu.wire.receiver import Duplicate, GoBack, Rejected, Write
from insitu_service.ingest.acknowledger import Acknowledger, Send
from insitu_service.ingest.door import Door, Refusal
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.lobby import abandon
from insitu_service.ingest.session import Session

_log = logging.getLogger("insitu.ingest")

#: of a text in a message
_MOST_CHARACTERS = 4096


class DataPath:
    """Stores fragments, admits complete batches, and settles every one of them exactly once.

    Args:
        inlet: how they enter the stream.
        door: which rows may come in.
        drops_newest: what a batch without room meets: dropped, or asked for again.
    """

    def __init__(
        self,
        inlet: Inlet,
        door: Door,
        acknowledger: Acknowledger,
        intake: Intake,
        send: Send,
        *,
        drops_newest: bool,
    ) -> None:
        self._inlet = inlet
        self._door = door
        self._acknowledger = acknowledger
        self._intake = intake
        self._send = send
        self._drops_newest = drops_newest

    def receive(self, session: Session, data: Data) -> None:
        """One fragment. Raises nothing that a producer could provoke."""
        action = session.receiver.receive(data)
        if isinstance(action, Write):
            self._write(session, action)
        elif isinstance(action, GoBack):
            self._go_back(session, action.nack)
        elif isinstance(action, Rejected):
            abandon(session, self._inlet)
            if data.fragment == 0:
                session.gap_rows = action.gap_rows
            self._refuse(session, data, action.nack)
        elif isinstance(action, Duplicate):
            self._intake.duplicate_batches += data.fragment + 1 == data.fragments
            self._acknowledger.owe(session)

    def _go_back(self, session: Session, nack: Nack) -> None:
        self._intake.go_backs += 1
        abandon(session, self._inlet)
        if nack.code == NackCode.CORRUPT:
            self._tell(session, nack.text)
        self._send(session.identity, nack)

    def _refuse(self, session: Session, data: Data, nack: Nack) -> None:
        """A batch that is settled without being taken: counted, and told to both sides."""
        if not self._inlet.skip(_stamp(session, data), data.rows):
            return  # the service is about to end; the next one hears of it again
        if nack.code == NackCode.TOO_BIG:
            self._intake.refused_messages["too_big"] += 1
        self._received(session, data)
        self._intake.quarantined_samples[nack.code] += data.rows
        self._tell(session, nack.text)
        self._send(session.identity, nack)
        self._acknowledger.owe(session)

    def _write(self, session: Session, write: Write) -> None:
        data = write.data
        if write.begin and not self._begin(session, write):
            return
        reservation = session.reservation
        if reservation is not None:
            reservation.write(data.offset, data.payload, xxh3=session.receiver.xxh3(data))
        if not write.complete:
            return
        if reservation is not None:
            self._complete(session, session.first_fragment or data, reservation)
        elif self._drops_newest:
            self._drop(session, session.first_fragment or data)

    def _begin(self, session: Session, write: Write) -> bool:
        """Make room for a batch; False when it is not to be stored now, or never."""
        data = write.data
        abandon(session, self._inlet)
        session.first_fragment = data
        session.gap_rows = write.gap_rows
        session.held_bytes = 0
        try:
            session.reservation = self._inlet.reserve(data.rows)
        except ProducerError as error:  # it would not even fit an empty ring
            nack = session.receiver.quarantine(NackCode.TOO_BIG, str(error))
            self._refuse(session, data, nack)
            return False
        if session.reservation is None and not self._drops_newest:
            self._intake.full_batches += 1
            self._send(session.identity, session.receiver.no_room())
            session.held_bytes = data.payload_bytes
            self._acknowledger.owe(session)
            return False
        return True

    def _drop(self, session: Session, first: Data) -> None:
        """The whole batch came and found no room: the newest goes, and counts as dropped."""
        try:
            counted = self._inlet.refuse(_stamp(session, first), first.rows)
        except ProducerError as error:  # such as one task name too many
            nack = session.receiver.quarantine(NackCode.MALFORMED, str(error))
            self._refuse(session, first, nack)
            return
        if not counted:
            session.receiver.no_room()  # and not a word: the service is about to end
            return
        self._received(session, first)
        self._intake.received_bytes += first.payload_bytes
        self._acknowledger.owe(session)
        session.receiver.settled()

    def _complete(self, session: Session, first: Data, reservation: Reservation) -> None:
        refusal = self._door.inspect(reservation.views())
        if self._door.mends:
            reservation.write_back()
        try:
            admitted = self._admit(session, first, reservation, refusal)
        except ProducerError as error:  # such as one task name too many
            abandon(session, self._inlet)
            admitted = self._inlet.skip(_stamp(session, first), first.rows)
            refusal = Refusal(NackCode.MALFORMED, str(error), np.ones(first.rows, bool))
        self._acknowledger.owe(session)
        if not admitted:
            abandon(session, self._inlet)
            # and not a word: the service is about to end, or the learner has not taken in the
            # probes before; then the producer comes again after its next PING
            session.receiver.no_room()
            return
        session.reservation = None
        self._received(session, first)
        self._intake.received_bytes += first.payload_bytes
        self._settle(session, first.rows, refusal)

    def _admit(
        self, session: Session, first: Data, reservation: Reservation, refusal: Refusal | None
    ) -> bool:
        """Into the stream, or to the probes; False when it must stay with its producer."""
        stamp = _stamp(session, first)
        keep = None if refusal is None else ~refusal.bad_rows
        if not first.flags & SampleFlag.EVALUATE:
            return self._inlet.commit(reservation, stamp, keep=keep)
        if not self._inlet.probe(reservation, stamp, keep=keep):
            return False
        self._intake.probe_samples += first.rows if keep is None else int(keep.sum())
        return True

    def _settle(self, session: Session, rows: int, refusal: Refusal | None) -> None:
        bad = 0
        if refusal is None:
            session.receiver.settled()
        else:
            bad = int(refusal.bad_rows.sum())
            text = refusal.text[:_MOST_CHARACTERS]
            nack = session.receiver.quarantine(NackCode(refusal.code), text, bad)
            self._intake.quarantined_samples[refusal.code] += bad
            self._tell(session, text)
            self._send(session.identity, nack)
        session.figures.accepted_samples += rows - bad
        self._intake.accepted_samples += rows - bad

    def _received(self, session: Session, data: Data) -> None:
        """A batch is settled: its rows count, and those that its producer dropped before it."""
        self._intake.received_samples += data.rows
        self._intake.producer_dropped_samples += session.gap_rows
        session.gap_rows = 0

    def _tell(self, session: Session, text: str) -> None:
        """One line in an interval for each producer, however much of it is bad."""
        producer_id = session.producer_id
        _log.warning("producer %r: %s", producer_id, text, extra={"key": f"data {producer_id}"})


def _stamp(session: Session, first: Data) -> Stamp:
    ids = None if first.sample_ids is None else np.frombuffer(first.sample_ids, "<i8")
    return Stamp(
        session.producer_id,
        session.hello.epoch,
        first.seq,
        first.cursor,
        first.first_row,
        first.produced_at_ns,
        first.task,
        ids,
        first.flags,
    )
