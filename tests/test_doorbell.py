"""No ring is lost, whenever it comes."""

from __future__ import annotations

import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from insitu_service.ingest.doorbell import Doorbell

RINGS = 20_000


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    found = Doorbell()
    yield found
    found.close()


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def rung(bell: Doorbell, seconds: float) -> bool:
    return bool(select.select([bell.fileno()], [], [], seconds)[0])


def test_many_rings_are_one(bell: Doorbell) -> None:
    for _ in range(10):
        bell.ring()
    assert rung(bell, 0)
    bell.answer()
    assert not rung(bell, 0)
    bell.ring()
    assert rung(bell, 0)


def test_who_answers_too_early_does_not_wait(bell: Doorbell) -> None:
    bell.answer()
    bell.ring()
    assert rung(bell, 0)


class Emptied(socket.socket):
    """The bell's own socket, with something to do at the very moment that it is read."""

    meanwhile: Callable[[], None]

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.meanwhile()
        return super().recv(size, flags)


def test_a_ring_while_the_bell_is_emptied_does_not_deafen_it(bell: Doorbell) -> None:
    emptied = Emptied(fileno=bell._inside.detach())
    emptied.meanwhile = bell.ring
    bell._inside = emptied
    bell.ring()
    bell.answer()
    bell.ring()
    assert rung(bell, 0)


def test_what_was_done_before_a_ring_is_seen_after_it(bell: Doorbell, hasty_threads: None) -> None:
    """Two threads play ping-pong: one lost ring, and both wait."""
    done, heard = 0, threading.Semaphore(0)

    def work() -> None:
        nonlocal done
        for _ in range(RINGS):
            done += 1
            bell.ring()
            if done % 4 == 0:  # in between, several come close together
                assert heard.acquire(timeout=20.0)

    thread = threading.Thread(target=work)
    thread.start()
    seen = 0
    while seen < RINGS:
        assert rung(bell, 20.0), f"asleep, though {done - seen} rings came"
        bell.answer()
        told, seen = seen, done
        for _ in range(seen // 4 - told // 4):
            heard.release()
    thread.join()


def test_a_bell_without_a_house_may_be_rung() -> None:
    bell = Doorbell()
    bell.close()
    bell.ring()
