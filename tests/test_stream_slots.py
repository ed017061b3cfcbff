"""Slot collections against plain Python ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from insitu.stream.slots import SlotAges, SlotList, SlotQueue

_CAPACITY = 13


class ListAndAges(RuleBasedStateMachine):
    """A `SlotList` with its `SlotAges` beside a set and a list in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = SlotList(_CAPACITY)
        self.ages = SlotAges(_CAPACITY, self.slots)
        self.order: list[int] = []

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        absent = [slot for slot in range(_CAPACITY) if slot not in self.order]
        chosen = data.draw(st.lists(st.sampled_from(absent), unique=True)) if absent else []
        self.slots.append(np.array(chosen, np.int64))
        self.ages.push(np.array(chosen, np.int64))
        self.order += chosen

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.order), unique=True)) if self.order else []
        self.slots.remove(np.array(chosen, np.int64))
        self.order = [slot for slot in self.order if slot not in chosen]

    @rule(count=st.integers(0, _CAPACITY + 2))
    def look_at_the_oldest(self, count: int) -> None:
        assert self.ages.oldest(count).tolist() == self.order[:count]

    @rule()
    def reload(self) -> None:
        listed, aged = self.slots.slots().copy(), self.ages.in_order()
        self.slots.replace(listed)
        self.ages.replace(aged)
        assert self.slots.slots().tolist() == listed.tolist()

    @invariant()
    def the_same_members(self) -> None:
        assert sorted(self.slots.slots().tolist()) == sorted(self.order)
        assert len(self.slots) == len(self.order)
        inside = self.slots.contains(np.arange(_CAPACITY))
        assert np.flatnonzero(inside).tolist() == sorted(self.order)
        assert self.ages.in_order().tolist() == self.order


TestListAndAges = ListAndAges.TestCase


@given(st.integers(1, 9), st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30))
def test_a_queue_is_a_queue(capacity: int, moves: list[tuple[bool, int]]) -> None:
    queue, plain, number = SlotQueue(capacity), [], 0
    for into, wish in moves:
        if into:
            count = min(wish, capacity - len(plain))
            new = list(range(number, number + count))
            queue.push(np.array(new, np.int64))
            plain += new
            number += count
        else:
            count = min(wish, len(plain))
            assert queue.peek(count).tolist() == plain[:count]
            assert queue.pop(count).tolist() == plain[:count]
            del plain[:count]
        assert queue.slots().tolist() == plain
        assert len(queue) == len(plain)
