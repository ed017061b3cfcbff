"""Where a run that resumes begins, at a service that has forgotten it, or cannot write it down."""

from __future__ import annotations

import errno
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.stream.inlet import Inlet
from insitu.stream.logged_inlet import LoggedInlet
from insitu.stream.stamp import Position, Stamp
from insitu.wire.began import Began
from insitu.wire.capabilities import RESUMES, ROW_COUNTS
from insitu.wire.messages import AckLevel, Hello, Message, Welcome
from insitu.wire.values import Cursor
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.lobby import Lobby
from insitu_service.ingest.session import Sessions
from insitu_service.learning.probe_inbox import ProbeInbox
from insitu_service.stream_log.syncer import LogSyncer
from simulated_disk import Operation, SimulatedDisk
from simulation.composition import make_buffer, make_logged_inlet, make_reception
from simulation.samples import SCHEMA
from simulation.settings import Settings
from simulation.virtual_clock import VirtualClock


class Desk:
    """The lobby of a service, and what it has sent."""

    def __init__(self, level: AckLevel = AckLevel.RECEIVED) -> None:
        settings = replace(Settings.drawn(Random(1), level), capacity_samples=64)
        self.clock, self.disk = VirtualClock(), SimulatedDisk(Random(2))
        buffer, probes = make_buffer(settings, self.clock, 3), ProbeInbox()
        self.syncer: LogSyncer | None = None
        self.inlet = Inlet(buffer, probes.take)
        if settings.has_log:
            logged, self.syncer = make_logged_inlet(
                settings, buffer, probes.take, self.disk,
                wall_ns=lambda: 0, on_appended=lambda: None, on_synced=lambda: None,
            )  # fmt: skip
            logged.recover()
            self.inlet = logged
        self.sent: list[Message] = []
        reception = make_reception(
            settings, self.inlet, Sessions(1), Intake(), lambda _to, what: self.sent.append(what)
        )
        self.lobby: Lobby = reception.lobby

    def greet(
        self, epoch: int, *says: str, first_available: tuple[int, int] = (1, 0)
    ) -> Welcome | None:
        """The answer; None when there is none yet."""
        self.sent.clear()
        hello = Hello(
            1, "p", epoch, "s", SCHEMA, SCHEMA.crc32, (ROW_COUNTS, *says), "", "", "",
            *first_available,
        )  # fmt: skip
        self.lobby.hello(b"peer", hello, self.clock.now)
        return self.answer()

    def answer(self) -> Welcome | None:
        welcomes = [message for message in self.sent if isinstance(message, Welcome)]
        return welcomes[-1] if welcomes else None


def places(welcome: Welcome | None) -> tuple[Cursor, int | None, int | None]:
    assert welcome is not None
    return welcome.last_cursor, welcome.next_row, welcome.rows_behind_cursor


def test_a_run_that_a_service_has_forgotten_counts_from_where_it_began() -> None:
    """Its rows would count from the service's older cursor else, and come twice in the next run."""
    desk = Desk()
    desk.inlet.skip(Stamp("p", 1, 4, 12, 0), 20)
    assert places(desk.greet(2, *Began(40).capabilities(), first_available=(3, 9))) == (40, 9, 9)
    assert desk.inlet.position("p") == Position(2, 2, 9, 40, 9)
    assert places(desk.greet(3, RESUMES)) == (40, 9, 9)


def test_what_a_former_run_has_brought_meanwhile_is_not_taken_again() -> None:
    """The run was told that 3 rows are behind the cursor; it hears of 5 and lets go of them."""
    desk = Desk()
    desk.inlet.skip(Stamp("p", 1, 4, 40, 0), 20)
    desk.inlet.skip(Stamp("p", 1, 5, None, 20), 5)
    welcome = desk.greet(2, *Began(40).capabilities(), first_available=(1, 3))
    assert places(welcome) == (40, 5, 5)


def test_a_run_that_began_without_a_cursor_begins_at_row_0_where_there_is_one() -> None:
    desk = Desk()
    desk.inlet.skip(Stamp("p", 1, 4, 40, 0), 20)
    desk.inlet.skip(Stamp("p", 1, 5, None, 20), 5)
    assert places(desk.greet(2, RESUMES)) == (40, 5, 5)
    assert places(desk.greet(2, *Began(None).capabilities())) == (40, 0, 0)
    assert desk.inlet.position("p") == Position(2, 0, 0, 40, 0)


def test_at_durable_a_run_is_told_its_place_when_that_is_on_the_disk() -> None:
    """It leaves out what it is told of, and nobody could send that again after a loss of power."""
    desk = Desk(AckLevel.DURABLE)
    desk.inlet.skip(Stamp("p", 1, 4, 40, 0), 20)
    assert desk.greet(2, RESUMES) is None
    desk.lobby.expire(desk.clock.now)
    assert desk.answer() is None
    assert desk.syncer is not None
    desk.syncer.sync()
    desk.lobby.expire(desk.clock.now)
    assert places(desk.answer()) == (40, 0, 0)


@pytest.mark.parametrize("says", [(RESUMES,), Began(7).capabilities()])
def test_while_the_disk_is_full_no_run_is_told_where_it_begins(says: tuple[str, ...]) -> None:
    """A former run could come in before it, behind a fence that was never written."""
    desk = Desk(AckLevel.LOGGED)
    assert isinstance(desk.inlet, LoggedInlet)

    def full(operation: Operation) -> None:
        if operation.name in ("create", "write"):
            raise OSError(errno.ENOSPC, "no room")

    before, desk.disk.before = desk.disk.before, full
    assert desk.greet(2, *says) is None
    desk.lobby.expire(desk.clock.now)
    assert desk.answer() is None
    desk.disk.before = before
    desk.inlet.tend()
    desk.lobby.expire(desk.clock.now)
    assert desk.answer() is not None
    assert desk.inlet.position("p") is not None


@given(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=256)
)
def test_any_cursor_is_told_as_it_is(cursor: Cursor) -> None:
    says = Began(cursor).capabilities()
    assert all(len(each) <= 64 for each in says)
    assert len(says) <= 8
    assert Began.said_in((ROW_COUNTS, *says)) == Began(cursor)


@pytest.mark.parametrize("text", ["i", "ix", "i" + "9" * 30, "fnan", "finf", "f", "q1"])
def test_what_is_no_cursor_is_as_if_nothing_was_said(text: str) -> None:
    assert Began.said_in(("began:" + text,)) is None
    assert Began.said_in((ROW_COUNTS,)) is None
