"""What makes a producer survive, taken out one thing at a time."""

from __future__ import annotations

from typing import Any

from insitu.stream.stamp import Position, Stamp
from insitu.wire.batches import Batch
from insitu.wire.sender import SendWindow
from mutations.base import Mutation, constantly

_position = Stamp.position
_RESUMPTION = "tests/test_producer_resumption.py"


def _forgets_what_is_behind(self: Stamp, rows: int, before: Position | None = None) -> Position:
    after = _position(self, rows, before)
    return Position(after.epoch, after.seq, after.rows, after.cursor)


def _tells_the_cursor_inside_a_push(self: Batch) -> Any:
    return self.cursors[-1][1] if self.cursors else None


MUTATIONS = {
    "window_numbers_unwritten": Mutation(
        "insitu.wire.surviving:SurvivingWindow._take",
        SendWindow._take,
        "tests/test_producer_window.py",
    ),
    "window_release_unwritten": Mutation(
        "insitu.wire.surviving:SurvivingWindow._release",
        SendWindow._release,
        "tests/test_wire_surviving.py",
    ),
    "window_without_cursor": Mutation(
        "insitu.wire.surviving:SurvivingWindow.newest_cursor",
        property(lambda self: None),
        "tests/test_producer_window.py",
    ),
    "durable_released_when_accepted": Mutation(
        "insitu.wire.sender:SendWindow.acknowledge",
        lambda self, ack: self._release(min(ack.accepted, self.sent_seq)),
        "tests/test_wire_sender.py",
    ),
    "first_come_first_served": Mutation(
        "insitu_service.ingest.session:Session.share_bytes",
        lambda self, now: 0.0,
        "tests/test_fair_share.py",
    ),
    "resume: what is behind the cursor comes again": Mutation(
        "insitu_producers.resumption:Resumption.leave_out",
        lambda self, columns, rows, sample_ids: (columns, rows, sample_ids),
        _RESUMPTION,
    ),
    "resume: the service does not count behind the cursor": Mutation(
        "insitu.stream.stamp:Stamp.position", _forgets_what_is_behind, _RESUMPTION
    ),
    "resume: every run counts from 0": Mutation(
        "insitu.wire.sender:SendWindow.begin_at", constantly(None), _RESUMPTION
    ),
    "resume: a cursor is told inside a push": Mutation(
        "insitu.wire.batches:Batch.cursor",
        property(_tells_the_cursor_inside_a_push),
        _RESUMPTION,
    ),
    "resume: where a window begins is not written down": Mutation(
        "insitu.wire.surviving:SurvivingWindow.begin_at", SendWindow.begin_at, _RESUMPTION
    ),
}
