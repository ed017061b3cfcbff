"""What makes a producer survive, taken out one thing at a time."""

from __future__ import annotations

from insitu.wire.sender import SendWindow
from mutations.base import Mutation

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
}
