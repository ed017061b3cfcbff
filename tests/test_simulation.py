"""The stream in deterministic simulation: a few hundred schedules here, as many as one likes by
`python -m simulation` (see CONTRIBUTING.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from insitu.wire.messages import AckLevel
from simulation.faults import BLOWS
from simulation.life import Broken
from simulation.run import main, quietly, quietly_no_more, replay, run
from simulation.world import World

SEEDS = 240
_PART = 60

#: what must have happened in these schedules, beside every blow, or they prove little
_EVENTS = (
    "lost", "duplicated", "reordered", "delayed", "corrupted", "duplicate_batches", "go_backs",
    "full_batches", "fenced_sessions", "expired_sessions", "quarantined", "probes",
    "buffer dropped", "producer dropped", "lost_samples", "windows survived",
    "kill_in_a_run", "runs resumed", "rows left out",
)  # fmt: skip


#: schedules that broke once, by what they showed
_BROKE_ONCE = {
    "a session that begins behind the last checkpoint of a stop": 1_016_965,
    "probes that come behind the last checkpoint of a stop": 1_043_293,
    "more events than were thought to be possible": 1_045_847,
    "a loss that a dying service noted and nobody saw": 1_049_768,
    "a WELCOME of a former session that comes late": 1_051_380,
    "a batch that could not be accepted and is in the log all the same": 1_074_345,
    "an acknowledgement of what a late WELCOME had numbered anew": 1_089_661,
    "a run that resumed, at a service that had gone back behind its beginning": 2_000_074,
    "a run that was told of rows that a loss of power undid": 1_441,
}

#: those of them that broke when there were producers that resume; the others had none
_WITH_RESUMPTION = {2_000_074, 1_441}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    quietly()
    yield
    quietly_no_more()


@pytest.fixture(scope="module")
def happened() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("first", range(0, SEEDS, _PART))
def test_the_books_balance(first: int, happened: Counter[str]) -> None:
    for seed in range(first, first + _PART):
        try:
            happened.update(run(seed).counts)
        except Broken:
            pytest.fail(replay(seed))


@pytest.mark.parametrize("seed", _BROKE_ONCE.values(), ids=_BROKE_ONCE)
def test_what_broke_once_holds(seed: int) -> None:
    run(seed, resumes=seed in _WITH_RESUMPTION)


def test_everything_happened_that_can_happen(happened: Counter[str]) -> None:
    if happened["pushed"]:  # not when a part alone is run
        assert [name for name in (*BLOWS, *_EVENTS) if not happened[name]] == []
        assert happened["trained"] > happened["pushed"] / 5, "most schedules get nowhere"


@pytest.mark.parametrize("ack_level", AckLevel)
def test_a_seed_replays_event_by_event(ack_level: AckLevel) -> None:
    first, again = World(7, ack_level).run(), World(7, ack_level).run()
    assert (first.events, first.digest, first.counts) == (again.events, again.digest, again.counts)


def test_a_seed_is_the_same_in_another_process() -> None:
    """The order of sets of texts is another in every process, unless nothing depends on it."""
    code = (
        "from simulation.run import quietly, run; quietly(); "
        "print([run(seed).digest for seed in range(8)])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str([run(seed).digest for seed in range(8)])


def test_a_broken_schedule_is_told_with_its_last_events(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(_world: World) -> None:
        raise Broken("one row too many")

    monkeypatch.setattr(World, "_audit", breaks)
    assert main(["--seeds", "3:5"]) == 1
    told = capsys.readouterr().out
    assert "seed 3 is broken: one row too many" in told
    assert "the service starts" in told
    assert "1 broken" in told
