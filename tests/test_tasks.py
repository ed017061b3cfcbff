"""Tasks and visits: against a plain account of who was where, and the rules one by one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import InternalError, OperatorError, ProducerError
from insitu.tasks import TaskLedger


def _ended(ledger: TaskLedger) -> list[int]:
    return [visit.visit for visit in ledger.take_ended()]


def test_an_unnamed_task_is_the_default_one() -> None:
    ledger = TaskLedger()
    assert ledger.arrive("a", "", 1) == (0, 0)
    assert ledger.arrive("a", "default", 1) == (0, 0)
    assert ledger.names == ("default",)


def test_a_visit_ends_when_left_and_resolved_in_either_order() -> None:
    ledger = TaskLedger()
    ledger.arrive("a", "one", 3)
    ledger.resolve(0, 3)
    assert _ended(ledger) == []  # resolved, but more may come
    ledger.arrive("a", "two", 2)
    assert _ended(ledger) == [0]
    ledger.leave("a")
    assert _ended(ledger) == []  # left, but two are unseen
    ledger.resolve(1, 1)
    ledger.resolve(1, 1, dropped=True)
    (visit,) = ledger.take_ended()
    assert (visit.visit, visit.task, visit.name, visit.samples, visit.dropped) == (
        1,
        1,
        "two",
        2,
        1,
    )


def test_a_task_is_open_while_any_producer_is_in_it() -> None:
    ledger = TaskLedger()
    assert ledger.arrive("a", "one", 1) == (0, 0)
    assert ledger.arrive("b", "one", 1) == (0, 0)
    assert ledger.arrive("a", "two", 1) == (1, 1)
    assert ledger.arrive("c", "one", 1) == (0, 0)  # b is still there
    ledger.resolve(0, 3)
    ledger.leave("b")
    assert _ended(ledger) == []
    ledger.leave("c")
    assert _ended(ledger) == [0]
    assert ledger.arrive("b", "one", 1) == (0, 2)  # a new stay in the same task


def test_leaving_twice_or_unknown_changes_nothing() -> None:
    ledger = TaskLedger()
    ledger.leave("nobody")
    ledger.arrive("a", "one", 1)
    ledger.resolve(0, 1)
    ledger.leave("a")
    ledger.leave("a")
    assert _ended(ledger) == [0]


def test_names_are_bounded() -> None:
    ledger = TaskLedger(most_tasks=2)
    ledger.arrive("a", "one", 1)
    ledger.arrive("a", "two", 1)
    ledger.arrive("a", "one", 1)
    with pytest.raises(ProducerError, match=r"'three'.*at most 2 distinct"):
        ledger.arrive("a", "three", 1)
    with pytest.raises(OperatorError, match="most_tasks is 0"):
        TaskLedger(most_tasks=0)


def test_resolving_more_than_arrived_is_our_fault() -> None:
    ledger = TaskLedger()
    ledger.arrive("a", "one", 1)
    with pytest.raises(InternalError, match="visit 0 has 1 unseen samples, 2"):
        ledger.resolve(0, 2)
    with pytest.raises(InternalError, match="visit 7"):
        ledger.resolve(7, 1)


def test_refused_samples_are_counted_and_belong_to_no_visit() -> None:
    ledger = TaskLedger()
    ledger.refuse("one", 5)
    (count,) = ledger.counts()
    assert (count.name, count.arrived, count.trained, count.dropped) == ("one", 5, 0, 5)
    assert _ended(ledger) == []


_events = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from("ab"), st.sampled_from("xyz")),
        st.tuples(st.just("leave"), st.sampled_from("ab"), st.just("")),
        st.tuples(st.just("resolve"), st.integers(0, 30), st.booleans()),
    ),
    max_size=40,
)


@given(_events, st.integers(0, 40))
def test_the_books_balance_and_survive_saving(
    events: list[tuple[str, object, object]], cut: int
) -> None:
    ledger = TaskLedger()
    unresolved: list[int] = []  # the visit of each unseen sample
    inside: dict[str, tuple[str, int]] = {}  # the plain account: producer -> (task, visit)
    visits, ended, trained, dropped, arrived = 0, [], Counter(), Counter(), Counter()
    task_of: dict[int, str] = {}
    for step, (kind, first, second) in enumerate(events):
        if step == cut:
            copy = TaskLedger()
            copy.load_state_dict(ledger.state_dict())
            assert copy.state_dict() == ledger.state_dict()
            ledger = copy
        if kind == "arrive":
            producer, task = str(first), str(second)
            if inside.get(producer, ("", 0))[0] != task:
                inside.pop(producer, None)
                there = [visit for name, visit in inside.values() if name == task]
                inside[producer] = (task, there[0] if there else visits)
                visits += not there
            _, visit = ledger.arrive(producer, task, 1)
            assert visit == inside[producer][1]
            task_of[visit] = task
            unresolved.append(visit)
            arrived[task] += 1
        elif kind == "leave":
            inside.pop(str(first), None)
            ledger.leave(str(first))
        elif unresolved:
            assert isinstance(first, int)
            visit = unresolved.pop(first % len(unresolved))
            ledger.resolve(visit, 1, dropped=bool(second))
            (dropped if second else trained)[task_of[visit]] += 1
        over = set(range(visits)) - set(unresolved) - {visit for _, visit in inside.values()}
        ended += _ended(ledger)
        assert sorted(ended) == sorted(over)
    for count in ledger.counts():
        name = count.name
        expected = (arrived[name], trained[name], dropped[name])
        assert (count.arrived, count.trained, count.dropped) == expected


def test_a_foreign_state_is_refused_by_name() -> None:
    with pytest.raises(OperatorError, match="surprise"):
        TaskLedger().load_state_dict({**TaskLedger().state_dict(), "surprise": 1})
