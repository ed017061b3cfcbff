"""The path of the data: DATA messages into the ring, through the door, into the stream."""

from __future__ import annotations

import logging

import numpy as np
import torch

from insitu.batch import Batch, Column, SampleFlag
from insitu.errors import ProducerError
from insitu.stream.buffer import StreamBuffer
from insitu.stream.ring import Reservation
from insitu.stream.stamp import Stamp
from insitu.wire.messages import Data, NackCode
from insitu.wire.receiver import Duplicate, GoBack, Refused, Write
from insitu_service.acknowledger import Acknowledger, Send
from insitu_service.door import Door, Refusal
from insitu_service.intake import Intake
from insitu_service.lobby import abandon
from insitu_service.probe_inbox import ProbeInbox
from insitu_service.session import Session

_log = logging.getLogger("insitu.ingest")


class DataPath:
    """Stores fragments, admits complete batches, and settles every one of them exactly once.

    Args:
        door: which rows may come in.
        probes: where held-out rows go.
        drops_newest: what a batch without room meets: dropped, or asked for again.
        max_fragment_bytes: as in WELCOME; larger ones are ignored and counted.
    """

    def __init__(
        self,
        buffer: StreamBuffer,
        door: Door,
        probes: ProbeInbox,
        acknowledger: Acknowledger,
        intake: Intake,
        send: Send,
        *,
        drops_newest: bool,
        max_fragment_bytes: int,
    ) -> None:
        self._buffer = buffer
        self._door = door
        self._probes = probes
        self._acknowledger = acknowledger
        self._intake = intake
        self._send = send
        self._drops_newest = drops_newest
        self._max_fragment_bytes = max_fragment_bytes

    def receive(self, session: Session, data: Data) -> None:
        """One fragment. Raises nothing that a producer could provoke."""
        if len(data.payload) > self._max_fragment_bytes:
            self._intake.refused_messages["too_big"] += 1
            return
        action = session.receiver.receive(data)
        if isinstance(action, Write):
            self._write(session, action)
        elif isinstance(action, GoBack):
            self._intake.go_backs += 1
            abandon(session, self._buffer)
            self._send(session.identity, action.nack)
        elif isinstance(action, Refused):
            abandon(session, self._buffer)
            self._intake.producer_dropped_samples += action.gap_rows
            self._intake.received_samples += action.rows
            self._intake.quarantined_samples[action.nack.code] += action.rows
            self._buffer.skip(_stamp(session, data), data.rows)
            self._send(session.identity, action.nack)
            self._acknowledger.owe(session)
        elif isinstance(action, Duplicate):
            self._intake.duplicate_batches += data.fragment + 1 == data.fragments
            self._acknowledger.owe(session)

    def _write(self, session: Session, write: Write) -> None:
        data = write.data
        if write.begin and not self._begin(session, write):
            return
        reservation = session.reservation
        if reservation is None:
            return  # its room was given back; the producer will be asked for the batch again
        reservation.write(data.offset, data.payload)
        if write.complete:
            self._complete(session, session.first_fragment or data)

    def _begin(self, session: Session, write: Write) -> bool:
        data = write.data
        abandon(session, self._buffer)
        session.first_fragment = data
        session.reservation = self._buffer.reserve(data.rows)
        if session.reservation is None and not (self._drops_newest and write.complete):
            self._intake.full_batches += 1
            self._send(session.identity, session.receiver.no_room())
            session.held_bytes = data.payload_bytes
            self._acknowledger.owe(session)
            return False
        session.held_bytes = 0
        self._intake.producer_dropped_samples += write.gap_rows
        return True

    def _complete(self, session: Session, first: Data) -> None:
        reservation, session.reservation = session.reservation, None
        assert reservation is not None
        self._intake.received_samples += first.rows
        self._intake.received_bytes += first.payload_bytes
        self._acknowledger.owe(session)
        refusal = self._door.inspect(reservation.views())
        if self._door.mends:
            reservation.write_back()
        try:
            if not self._admit(session, first, reservation, refusal):
                self._buffer.abandon(reservation)
                session.receiver.no_room()  # and not a word: the service is about to end
                return
        except ProducerError as error:  # such as one task name too many
            self._buffer.abandon(reservation)
            self._buffer.skip(_stamp(session, first), first.rows)
            refusal = Refusal(NackCode.MALFORMED, str(error), np.ones(first.rows, bool))
        self._settle(session, first.rows, refusal)

    def _admit(
        self, session: Session, first: Data, reservation: Reservation, refusal: Refusal | None
    ) -> bool:
        """Into the stream, or to the probes; False when the buffer takes nothing any more."""
        stamp = _stamp(session, first)
        keep = None if refusal is None else ~refusal.bad_rows
        if first.flags & SampleFlag.EVALUATE:
            self._probes.put(first.task, self._probe(first, stamp, reservation, keep))
            self._buffer.abandon(reservation)
            self._buffer.skip(stamp, first.rows)
            return True
        return self._buffer.commit(reservation, stamp, keep=keep)

    def _probe(
        self, first: Data, stamp: Stamp, reservation: Reservation, keep: np.ndarray | None
    ) -> Batch:
        """Held-out rows, copied out of the ring."""
        rows = reservation.copied(keep)
        count = len(next(iter(rows.values())))
        provenance = torch.zeros(count, len(Column), dtype=torch.int64)
        provenance[:, Column.PRODUCED_AT_NS] = first.produced_at_ns
        provenance[:, Column.ROW] = first.first_row + torch.arange(count)
        provenance[:, Column.SAMPLE_ID] = provenance[:, Column.ROW]
        provenance[:, Column.FLAGS] = first.flags
        self._intake.probe_samples += count
        return Batch(rows, provenance, count)

    def _settle(self, session: Session, rows: int, refusal: Refusal | None) -> None:
        bad = 0
        if refusal is None:
            session.receiver.settled()
        else:
            bad = int(refusal.bad_rows.sum())
            nack = session.receiver.quarantine(NackCode(refusal.code), refusal.text)
            self._intake.quarantined_samples[refusal.code] += bad
            _log.warning("producer %s: %s", session.producer_id, refusal.text)
            self._send(session.identity, nack)
        session.figures.accepted_samples += rows - bad
        self._intake.accepted_batches += 1
        self._intake.accepted_samples += rows - bad


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
