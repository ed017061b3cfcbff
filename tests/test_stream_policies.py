"""Draw policies: the contract that all keep, and each one's own promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from insitu.errors import OperatorError
from insitu.stream.policies import FIFO, FIRO, Policy, Reservoir

_CAPACITY = 24
_NO_VISITS = np.zeros(_CAPACITY, np.int64)
_POLICIES: dict[str, Callable[[], Policy]] = {
    "fifo": lambda: FIFO(_CAPACITY),
    "firo": lambda: FIRO(_CAPACITY),
    "firo watermark": lambda: FIRO(_CAPACITY, watermark_samples=5),
    "reservoir": lambda: Reservoir(_CAPACITY),
    "reservoir watermark": lambda: Reservoir(_CAPACITY, watermark_samples=5, kept_samples=9),
}


def _slots(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


_moves = st.lists(
    st.tuples(st.sampled_from(["admit", "draw", "drop", "save"]), st.integers(1, 8)), max_size=40
)


@pytest.mark.parametrize("name", sorted(_POLICIES))
@given(moves=_moves, most_draws=st.sampled_from([None, 1, 3]), seed=st.integers(0, 99))
def test_the_contract(
    name: str, moves: list[tuple[str, int]], most_draws: int | None, seed: int
) -> None:
    """Slots come out once for the first time, are free once, and everything can be repeated."""
    policy, generator = _POLICIES[name](), _seeded(seed)
    free, unseen, seen = set(range(_CAPACITY)), [], set()
    drawn_times: Counter[int] = Counter()
    for move, count in moves:
        if move == "admit":
            count = min(count, policy.room(), len(free))
            slots = np.array(sorted(free)[:count], np.int64)
            evicted = policy.admit(slots, generator).tolist()
            assert set(evicted) <= seen
            assert len(set(evicted)) == len(evicted)
            free = (free - set(slots.tolist())) | set(evicted)
            seen -= set(evicted)
            unseen += slots.tolist()
            drawn_times.update(dict.fromkeys(slots.tolist(), 0))
            for slot in slots.tolist():
                drawn_times[slot] = 0
        elif move == "draw":
            count = policy.drawable(count, _NO_VISITS, most_draws, False)
            if count == 0:
                continue
            drawn = policy.draw(count, _NO_VISITS, generator, most_draws, False)
            assert len(drawn.slots) == count
            assert set(drawn.slots.tolist()) <= set(unseen) | seen
            first = drawn.first.tolist()
            assert set(first) == set(drawn.slots.tolist()) & set(unseen)
            assert len(set(first)) == len(first)
            unseen = [slot for slot in unseen if slot not in first]
            drawn_times.update(drawn.slots.tolist())
            freed = set(drawn.freed.tolist())
            seen = (seen | set(first)) - freed
            free |= freed
            if policy.draws_once:
                assert not seen
            elif most_draws is not None:
                assert max(drawn_times.values()) <= most_draws
                assert freed == {s for s in drawn.slots.tolist() if drawn_times[s] == most_draws}
        elif move == "drop":
            dropped = policy.drop_oldest(count).tolist()
            assert dropped == unseen[:count]  # the oldest, in order
            unseen = unseen[count:]
            free |= set(dropped)
        else:
            copy = _POLICIES[name]()
            copy.load_state_dict(policy.state_dict(np.arange(_CAPACITY)))
            policy = copy
        assert (policy.unseen, policy.seen) == (len(unseen), len(seen))
        assert sorted(policy.held().tolist()) == sorted([*unseen, *seen])
        assert set(policy.held()[: policy.unseen].tolist()) == set(unseen)
    while policy.unseen:  # at the end of the stream each unseen sample comes once
        count = policy.drawable(4, _NO_VISITS, most_draws, True)
        drawn = policy.draw(count, _NO_VISITS, generator, most_draws, True)
        assert sorted(drawn.slots.tolist()) == sorted(drawn.first.tolist())
        unseen = [slot for slot in unseen if slot not in drawn.slots.tolist()]
        assert policy.unseen == len(unseen)


@pytest.mark.parametrize("name", sorted(_POLICIES))
def test_a_seed_gives_the_same_draws_and_a_loaded_state_goes_on_with_them(name: str) -> None:
    def run(save_at: int | None) -> list[list[int]]:
        policy, generator, out = _POLICIES[name](), _seeded(3), []
        rng = np.random.default_rng(0)
        free: list[int] = list(range(_CAPACITY))
        for step in range(60):
            if step == save_at:
                state, random = policy.state_dict(np.arange(_CAPACITY)), generator.get_state()
                policy, generator = _POLICIES[name](), _seeded(99)
                policy.load_state_dict(state)
                generator.set_state(random)
            count = min(int(rng.integers(1, 6)), policy.room(), len(free))
            free += policy.admit(_slots(*free[:count]), generator).tolist()
            del free[:count]
            count = policy.drawable(int(rng.integers(1, 6)), _NO_VISITS, None, False)
            if count:
                drawn = policy.draw(count, _NO_VISITS, generator, None, False)
                out.append(drawn.slots.tolist())
                free += drawn.freed.tolist()
        return out

    assert len(run(None)) > 20
    assert run(None) == run(None) == run(31)


def test_fifo_keeps_the_order_and_stops_before_a_newer_visit() -> None:
    policy, visits = FIFO(_CAPACITY), np.zeros(_CAPACITY, np.int64)
    visits[:9] = [0, 0, 1, 0, 1, 2, 1, 2, 2]  # 2 is newer than all before, 0 and 1 interleave
    policy.admit(np.arange(9), _seeded())
    out = []
    while policy.unseen:
        count = policy.drawable(4, visits, None, False)
        assert policy.is_cut(4, visits) == (count < min(4, policy.unseen))
        out.append(policy.draw(count, visits, _seeded(), None, False).slots.tolist())
    assert out == [[0, 1], [2, 3, 4], [5, 6, 7, 8]]


def test_firo_leaves_the_watermark_behind_until_the_end() -> None:
    policy = FIRO(_CAPACITY, watermark_samples=5)
    policy.admit(np.arange(7), _seeded())
    assert policy.drawable(4, _NO_VISITS, None, False) == 2
    assert policy.drawable(4, _NO_VISITS, None, True) == 4


def test_firo_draws_every_order_alike() -> None:
    generator, outcomes = _seeded(5), Counter[tuple[int, ...]]()
    for _ in range(3000):
        policy = FIRO(_CAPACITY)
        policy.admit(np.arange(4), generator)
        outcomes[tuple(policy.draw(2, _NO_VISITS, generator, None, False).slots.tolist())] += 1
    assert len(outcomes) == 12
    assert chisquare(list(outcomes.values())).pvalue > 1e-4


def test_reservoir_draws_every_sample_alike() -> None:
    policy, generator = Reservoir(_CAPACITY), _seeded(6)
    policy.admit(np.arange(18), generator)
    drawn = [policy.draw(10, _NO_VISITS, generator, None, False).slots for _ in range(1000)]
    counts = np.bincount(np.concatenate(drawn), minlength=18)
    assert chisquare(counts).pvalue > 1e-4


def test_reservoir_evicts_seen_samples_alike_and_never_an_unseen_one() -> None:
    generator, counts = _seeded(7), Counter[int]()
    for _ in range(3000):
        policy = Reservoir(10, kept_samples=8)
        policy.admit(np.arange(6), generator)
        policy.draw(200, np.zeros(10, np.int64), generator, None, False)  # all six are seen now
        assert policy.seen == 6
        policy.admit(_slots(6, 7), generator)
        assert policy.room() == 6
        counts.update(policy.admit(_slots(8, 9), generator).tolist())
    assert set(counts) == set(range(6))
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_reservoir_full_of_unseen_samples_has_no_room() -> None:
    policy = Reservoir(10, kept_samples=4)
    policy.admit(np.arange(4), _seeded())
    assert policy.room() == 0


def test_a_reservoir_gives_each_sample_exactly_as_often_as_it_may() -> None:
    policy, generator = Reservoir(_CAPACITY), _seeded(8)
    policy.admit(np.arange(15), generator)
    times: Counter[int] = Counter()
    while count := policy.drawable(4, _NO_VISITS, 3, False):
        times.update(policy.draw(count, _NO_VISITS, generator, 3, False).slots.tolist())
    assert times == dict.fromkeys(range(15), 3)
    assert len(policy.held()) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FIFO(0), "capacity_samples is 0"),
        (lambda: FIRO(4, watermark_samples=4), "watermark_samples is 4; allowed: 0 to 3"),
        (lambda: FIRO(4, watermark_samples=-1), "watermark_samples is -1"),
        (lambda: Reservoir(8, watermark_samples=4, kept_samples=3), "kept_samples is 3"),
        (lambda: Reservoir(8, kept_samples=9), "kept_samples is 9"),
    ],
)
def test_impossible_sizes_are_the_operators_fault(make: Callable[[], Policy], words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        make()


def test_a_state_of_another_policy_is_refused() -> None:
    state = FIFO(4).state_dict(np.arange(4))
    with pytest.raises(OperatorError, match=r"Reservoir buffer has \['newest_visit', 'queue'\]"):
        Reservoir(4).load_state_dict(state)


def test_a_state_that_is_too_large_is_refused() -> None:
    large = Reservoir(8, kept_samples=6)
    large.admit(np.arange(6), _seeded())
    with pytest.raises(OperatorError, match="holds 6 samples; allowed: at most 4"):
        Reservoir(8, kept_samples=4).load_state_dict(large.state_dict(np.arange(8)))
