"""Several services: when the next one is turned to, and what each of them gets then."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.errors import ProducerError
from insitu.wire.failover import Failover
from insitu.wire.messages import Drain, Message, Refused, Welcome
from insitu.wire.session import Identity, ProducerSession, SessionState
from insitu_producers import Producer
from peer import Peer, Stored, wait_until
from test_wire_exactly_once import Network, Service, run
from test_wire_sender import ack, opened, push, sent, welcome, window_with

ANY = "tcp://127.0.0.1:*"
NOBODY = "tcp://127.0.0.1:9"

#: with a service that is there: a busy machine may keep it from answering for a second or two
PATIENCE_SECONDS = 4.0


def producer(*endpoints: str, **how: Any) -> Producer:
    how = {"stream": "s", "producer_id": "p", "linger_seconds": 30.0, "failover_seconds": 0.2} | how
    return Producer(endpoints, **how)


# -- when ------------------------------------------------------------------------------------------


def test_each_service_gets_the_same_patience_round_and_round() -> None:
    failover = Failover(3, patience_seconds=10.0)
    order = []
    for now in np.arange(0.0, 61.0, 0.5):
        if failover.leaves(float(now)):
            failover.turn(float(now))
            order.append((float(now), failover.index))
    assert order == [(10.0, 1), (20.0, 2), (30.0, 0), (40.0, 1), (50.0, 2), (60.0, 0)]


def test_one_service_is_never_left() -> None:
    failover = Failover()
    failover.refused(for_good=False)
    assert not failover.leaves(1e9, at_once=True)


def test_who_refuses_for_good_is_not_asked_again_until_another_serves() -> None:
    failover = Failover(3, patience_seconds=10.0)
    failover.refused(for_good=True)
    assert failover.leaves(0.0)
    failover.turn(0.0)
    failover.turn(1.0)
    failover.turn(2.0)
    assert failover.index == 1
    failover.well()
    failover.turn(3.0)
    failover.turn(4.0)
    assert failover.index == 0


def test_a_service_that_drains_is_left_when_nothing_is_under_way_there() -> None:
    window = window_with()
    session = ProducerSession(window, Identity("p", 100, "s"), Failover(2, patience_seconds=10.0))
    session.hello(0.0)
    session.receive(welcome(), 0.0)
    push(window, 2)
    sent(window)
    push(window, 3)
    session.receive(Drain(5, "stopping"), 1.0)
    assert not session.turns(1.0)
    session.receive(ack(1), 1.1)
    assert session.turns(1.2)
    assert (session.uncertain_rows, session.state) == (0, SessionState.LOST)
    assert session.wants_hello(1.2)
    hello = session.hello(1.2)
    assert (hello.first_available_seq, hello.first_available_row) == (1, 2), "numbered anew"
    session.receive(welcome(session=9), 1.3)
    (data,) = sent(window)
    assert (data.seq, data.first_row, data.rows) == (1, 2, 3)


def test_when_all_refuse_for_good_it_is_over_and_for_now_it_is_asked_ever_more_seldom() -> None:
    session = ProducerSession(window_with(), Identity("p", 100, "s"), Failover(2))
    now = 0.0
    hellos = []
    for _ in range(2000):
        now += 0.01
        if session.wants_hello(now):
            hellos.append(now)
            session.hello(now)
            session.receive(Refused("limit", "full", True), now)
        session.turns(now)
    assert 4 <= len(hellos) <= 12
    for _ in range(2):
        session.state = SessionState.LOST
        session.hello(now)
        session.receive(Refused("schema", "no", False), now)
        over = session.over
        session.turns(now)
    assert over


def test_one_service_alone_is_as_before() -> None:
    session = opened(window_with())
    session.receive(Drain(5, "stopping"), 1.0)
    assert not session.turns(1e9)


# -- what each gets --------------------------------------------------------------------------------


class TwoServices(Network):
    """The producer of `Network` and two services, of which either may be away for a while."""

    def __init__(self, policy: str, seed: int) -> None:
        super().__init__(policy)
        self.chance = np.random.default_rng([seed, 1])
        self.session = ProducerSession(self.window, Identity("p", 1, "s"), Failover(2, 3.0))
        self.services = [self.service, Service()]
        self.away = [False, False]

    def service_runs(self, most: int, quarantines: bool, is_full: bool) -> None:
        self.service = self.services[self.session.failover.index]
        if self.away[self.session.failover.index]:
            self.upward.clear()
        super().service_runs(most, False, is_full)

    def time_passes(self, seconds: float) -> None:
        super().time_passes(seconds)
        if self.chance.random() < 0.25:
            place = int(self.chance.integers(2))
            self.away[place] = not self.away[place]
        if self.session.turns(self.now):
            self.upward.clear()
            self.downward.clear()
        self.service = self.services[self.session.failover.index]


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
@pytest.mark.parametrize("seed", range(12))
def test_no_service_gets_a_row_twice_and_what_two_get_is_counted(policy: str, seed: int) -> None:
    network = TwoServices(policy, seed)
    run(network, np.random.default_rng(seed), 4000, kills=False)
    for service in network.services:
        service.room_rows = 50
    for _ in range(400):
        network.away = [False, False]
        network.sender_runs(20)
        network.service_runs(100, False, False)
        network.sender_reads(100)
        network.time_passes(0.6)
        if not network.window.books.pending_rows:
            break
    books, first, second = network.window.books, *(service.rows for service in network.services)
    assert books.pending_rows == 0, "the sender is stuck"
    for rows in (first, second):
        assert all(a < b for a, b in pairwise(rows))
    both = len(set(first) & set(second))
    assert both <= network.session.uncertain_rows
    counted = len(set(first) | set(second)) + books.dropped_rows_in_all
    surplus = counted - books.pushed_rows  # taken by the one that was left, and dropped later
    assert 0 <= surplus <= network.session.uncertain_rows, "lost or counted wrongly"
    assert network.session.failover.switches >= 2
    assert min(len(first), len(second)) > 30


# -- over real sockets -----------------------------------------------------------------------------


def test_the_next_service_goes_on_where_the_first_was_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "insitu.producer")
    first, second = Peer(ANY), Peer(ANY)
    how = {"failover_seconds": PATIENCE_SECONDS}
    with second, producer(first.endpoint, second.endpoint, **how) as p:
        p.push({"n": np.arange(10)}, cursor=9)
        p.flush(30)
        assert p.stats().accepted_seq == 1
        first.close()
        p.push({"n": np.arange(10, 15)}, cursor=14)
        p.flush(30)
        stats = p.stats()
        assert (stats.failovers, stats.accepted_seq) == (1, 1)
        assert stats.uncertain_rows in (0, 5), "they may have gone out before the loss was seen"
        assert stats.acknowledged_rows == 15
    assert first.store["p"].rows("n") == list(range(10))
    assert second.store["p"].rows("n") == list(range(10, 15))
    assert second.store["p"].lost_rows == 0
    assert second.store["p"].gap_rows == 10, "rows that it never saw are counted as dropped there"
    assert any("turning to" in record.message for record in caplog.records)


def test_what_was_under_way_may_be_at_both_and_is_counted() -> None:
    """The first has taken it, but its word was lost: the second gets it, too; each has it once."""
    stores: list[dict[str, Stored]] = [{}, {}]

    welcomes = iter([False])

    def deaf(message: Message) -> bool:
        return next(welcomes, True) if isinstance(message, Welcome) else True

    first = Peer(ANY, stores[0], heartbeat_seconds=0.4, lose=deaf)
    second = Peer(ANY, stores[1], heartbeat_seconds=0.4)
    how = {"failover_seconds": PATIENCE_SECONDS}
    with first, second, producer(first.endpoint, second.endpoint, **how) as p:
        p.push({"n": np.arange(10)})
        p.flush(30)
        assert (p.stats().failovers, p.stats().uncertain_rows) == (1, 10)
        first.lose = lambda message: False
        second.refusal = Refused("stream", "not here", False)
        second.lose = lambda message: not isinstance(message, Refused)
        p.push({"n": np.arange(10, 14)})
        wait_until(lambda: p.stats().failovers >= 2, 60.0)
        p.flush(30)
    assert stores[1]["p"].rows("n")[:10] == list(range(10))
    assert sorted({*stores[0]["p"].rows("n"), *stores[1]["p"].rows("n")}) == list(range(14))
    assert stores[0]["p"].rows("n") in ([*range(14)], [*range(10)])


def test_a_refusal_by_all_is_raised_and_by_one_is_not() -> None:
    refusal = Refused("stream", "no stream 's'", False)
    first, second = Peer(ANY, refusal=refusal), Peer(ANY)
    with first, second:
        with producer(first.endpoint, second.endpoint, failover_seconds=60.0) as p:
            p.push({"n": [1]})
            p.flush(30)
            assert second.store["p"].rows("n") == [1]
        second.refusal = refusal
        with producer(first.endpoint, second.endpoint, linger_seconds=0.0) as p:
            p.push({"n": [1]})
            wait_until(lambda: p.stats().state == "refused" and p.stats().failovers >= 1)
            with pytest.raises(ProducerError, match="no stream 's'"):
                p.flush(30)


def test_a_window_that_survives_goes_on_at_the_service_that_it_was_with(tmp_path: Path) -> None:
    store: dict[str, Stored] = {}
    how: dict[str, Any] = {"window_directory": tmp_path, "linger_seconds": 0.0}
    with Peer(ANY, store, lose=lambda m: not isinstance(m, Welcome)) as second:
        p = producer(NOBODY, second.endpoint, **how)
        p.push({"n": np.arange(5)}, cursor=4)
        wait_until(lambda: bool(store) and store["p"].next_row == 5)
        p.close()
    with Peer(ANY, store) as second:
        how = {**how, "linger_seconds": 30.0, "failover_seconds": 60.0}
        with producer(NOBODY, second.endpoint, **how) as p:
            p.push({"n": np.arange(5, 8)}, cursor=7)
            p.flush(30)
            assert p.stats().failovers == 0
    assert store["p"].rows("n") == list(range(8))


def test_what_cannot_be_a_list_of_services_is_refused() -> None:
    with pytest.raises(ProducerError, match="empty list"):
        producer()
    with pytest.raises(ProducerError, match=r"failover_seconds is 0\.01"):
        producer(NOBODY, NOBODY, failover_seconds=0.01)
