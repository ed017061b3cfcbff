"""The stream log against a model, on a disk that crashes, forgets, tears and fills up.

After every crash: what was synced is there, in order, exactly once; what is there is a prefix of
what was appended; a process that only died loses nothing; and the log goes on.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from insitu.stream.log.errors import LogFailed, LogFull
from insitu.stream.log.reader import LogReader
from insitu.stream.log.record import Kind
from insitu.stream.log.segment import segment_name
from insitu.stream.log.stream_log import StreamLog
from logged import Found, batch, copied, counting_clock, opened, payload, stamp
from simulated_disk import Crashed, Operation, Partly, SimulatedDisk

SEGMENT_BYTES = 10_000  # two pages and a half: records end anywhere in a page
SPARE_SEGMENTS = 2  # written anew with old records in them
_KINDS = [Kind.BATCH, Kind.BATCH, Kind.BATCH, Kind.SKIP, Kind.END]
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Entry:
    """One record as it was meant."""

    kind: Kind
    value: int
    rows: int

    def append_to(self, log: StreamLog) -> int:
        rows, given = self.rows, stamp(self.value)
        if self.kind is Kind.BATCH:
            return log.append(self.kind, given, rows, payload=[payload(self.value, rows)])
        return log.append(self.kind, None if self.kind is Kind.END else given, rows)

    def is_found_in(self, found: Found) -> bool:
        data = payload(self.value, self.rows).tobytes() if self.kind is Kind.BATCH else b""
        of_ours = found.stamp is None or found.stamp == stamp(self.value)
        return (found.kind, found.rows, found.payload) == (self.kind, self.rows, data) and of_ours


class LogMachine(RuleBasedStateMachine):
    """Appends, syncs, checkpoints, releases; and everything that can go wrong with a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(0)
        self.disk = SimulatedDisk(self.random)
        self.clock = counting_clock()
        self.entries: list[Entry] = []  # record n at n - 1
        self.chains = [0]
        self.synced = 0
        self.checkpoint = 0
        self.value = 0
        self.log, found, _ = opened(
            self.disk,
            segment_bytes=SEGMENT_BYTES,
            spare_segments=SPARE_SEGMENTS,
            clock=self.clock,
        )
        assert found == []
        self.reader: LogReader | None = None

    # ---- what a service does --------------------------------------------------------------

    @rule(kind=st.sampled_from(_KINDS), rows=st.integers(1, 400), seed=st.integers(0, 2**32))
    def append(self, kind: Kind, rows: int, seed: int) -> None:
        self.random.seed(seed)
        self._append(self._entry(kind, rows))

    @rule(rows=st.lists(st.integers(1, 40), min_size=1, max_size=20))
    def append_many(self, rows: list[int]) -> None:
        for count in rows:
            self._append(self._entry(Kind.BATCH, count))

    @rule()
    def sync(self) -> None:
        assert self.log.sync() == len(self.entries)
        self.synced = len(self.entries)

    @rule()
    def save_checkpoint(self) -> None:
        self.sync()
        self.checkpoint = len(self.entries)

    @rule()
    def release(self) -> None:
        self.log.release(self.checkpoint, 0)
        assert self.log.first <= self.checkpoint + 1

    @rule()
    def prepare(self) -> None:
        self.log.prepare()

    @rule()
    def read_on(self) -> None:
        if self.reader is None or self.reader.number < self.log.first - 1:
            if self.reader is not None:
                self.reader.close()
            self.reader = self.log.reader(self.random.randint(self.log.first - 1, self._end))
        while (record := self.reader.next()) is not None:
            self._check(copied(record))
        assert self.reader.number == self._end

    # ---- what goes wrong ------------------------------------------------------------------

    @rule(
        rows=st.integers(1, 400),
        number=st.sampled_from([*_FULL, errno.EIO]),
        part=st.floats(0, 1),
        at=st.integers(0, 3),
    )
    def fail_to_append(self, rows: int, number: int, part: float, at: int) -> None:
        """An operation of an append fails: nothing happened, and it can be tried again."""
        entry = self._entry(Kind.BATCH, rows)
        self._fail(at, OSError(number, "so it is"), part, spare=("sync", "sync_names"))
        refused: type[Exception] | None = None
        try:
            entry.append_to(self.log)
        except (LogFull, LogFailed) as error:
            refused = type(error)
        self._heal()
        if refused is None:
            self._took(entry)
            return
        assert refused is (LogFull if number in _FULL else LogFailed)
        assert self.log.appended == self._end
        self._append(entry if part < 0.5 else self._entry(Kind.BATCH, 400 - rows + 1))

    @rule(at=st.integers(0, 2))
    def fail_to_prepare(self, at: int) -> None:
        self._fail(at, OSError(errno.ENOSPC, "full"), 0.0, spare=("sync_names",))
        with suppress(LogFull):
            self.log.prepare()
        self._heal()

    @rule(at=st.integers(0, 2), power=st.booleans(), seed=st.integers(0, 2**32))
    def fail_to_sync(self, at: int, power: bool, seed: int) -> None:
        """The log admits nothing and takes nothing more; only a restart finds out what is left."""
        self.random.seed(seed)
        self._fail(at, OSError(errno.EIO, "bad"), 0.0, only=("sync", "sync_names"))
        synced = self.log.synced
        try:
            number = self.log.sync()
        except LogFailed:
            self._heal()
            assert self.log.synced == synced
            for again in (self.log.sync, lambda: self._entry(Kind.BATCH, 1).append_to(self.log)):
                with pytest.raises(LogFailed, match="nothing more"):
                    again()
            self._restart(power=power, all_there=False)
        else:
            self._heal()
            self.synced = number

    @rule(power=st.booleans(), seed=st.integers(0, 2**32))
    def crash(self, power: bool, seed: int) -> None:
        self.random.seed(seed)
        self._restart(power=power)
        assert power or self.torn_bytes == 0, "a failed write left something behind"

    @rule(
        what=st.sampled_from(["append", "sync", "prepare", "release"]),
        at=st.integers(0, 5),
        part=st.floats(0, 1),
        power=st.booleans(),
        rows=st.integers(1, 400),
        seed=st.integers(0, 2**32),
    )
    def crash_within(
        self, what: str, at: int, part: float, power: bool, rows: int, seed: int
    ) -> None:
        self.random.seed(seed)
        entry = self._entry(Kind.BATCH, rows)
        actions = {
            "append": lambda: entry.append_to(self.log),
            "sync": self.log.sync,
            "prepare": self.log.prepare,
            "release": lambda: self.log.release(self.checkpoint, 0),
        }
        self._fail(at, Crashed(), part)
        try:
            done = actions[what]()
        except Crashed:
            self._restart(power=power, begun=entry if what == "append" else None)
            return
        self._heal()
        if what == "append":
            self._took(entry)
        elif what == "sync":
            self.synced = done

    @rule(
        at=st.lists(st.integers(0, 12), min_size=1, max_size=3),
        power=st.booleans(),
        seed=st.integers(0, 2**32),
    )
    def crash_in_recovery(self, at: list[int], power: bool, seed: int) -> None:
        self.random.seed(seed)
        self._stop(power=power)
        for place in at:
            self._fail(place, Crashed(), self.random.random())
            try:
                self._open(all_there=not power)
            except Crashed:
                self._stop(power=power)
            else:
                break
        else:
            self._heal()
            self._open(all_there=not power)
        self._heal()

    # ---- what always holds ----------------------------------------------------------------

    @invariant()
    def numbers_agree(self) -> None:
        assert self.log.appended == self._end
        assert self.log.chain == self.chains[-1]
        assert self.log.synced <= self.synced
        assert len(set(self.chains)) == len(self.chains)

    @invariant()
    @precondition(lambda self: self.reader is None)
    def no_file_is_left_open(self) -> None:
        assert self.disk.open_files <= 5 + SPARE_SEGMENTS

    def teardown(self) -> None:
        if self.reader is not None:
            self.reader.close()
        self.log.close()
        assert self.disk.open_files == 0

    # ---- inside ---------------------------------------------------------------------------

    @property
    def _end(self) -> int:
        return len(self.entries)

    def _entry(self, kind: Kind, rows: int) -> Entry:
        self.value += 1
        return Entry(kind, self.value, rows)

    def _append(self, entry: Entry) -> None:
        assert entry.append_to(self.log) == self._end + 1
        self._took(entry)

    def _took(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.chains.append(self.log.chain)

    def _check(self, found: Found) -> None:
        assert self.entries[found.number - 1].is_found_in(found)
        assert found.chain == self.chains[found.number]

    def _fail(
        self,
        at: int,
        error: BaseException,
        part: float,
        *,
        only: tuple[str, ...] = (),
        spare: tuple[str, ...] = (),
    ) -> None:
        """Let the operation behind `at` others fail, and all after it."""
        left = [at]

        def before(operation: Operation) -> None:
            if operation.name in (*spare, "read", "open") or (only and operation.name not in only):
                return
            left[0] -= 1
            if left[0] < 0:
                if operation.name == "write":
                    raise Partly(int(part * operation.size_bytes), error)
                raise error

        self.disk.before = before

    def _heal(self) -> None:
        self.disk.before = lambda _operation: None

    def _stop(self, *, power: bool) -> None:
        self._heal()
        self.reader = None
        if power:
            self.disk.lose_power()
        else:
            self.disk.kill()

    def _restart(self, *, power: bool, all_there: bool = True, begun: Entry | None = None) -> None:
        self._stop(power=power)
        self._open(all_there=all_there and not power, begun=begun)

    def _open(self, *, all_there: bool, begun: Entry | None = None) -> None:
        """Recover and compare. `begun`: an append that was cut off may have been done."""
        after = self.checkpoint
        log, found, recovery = opened(
            self.disk,
            after,
            after_chain=self.chains[after],
            segment_bytes=SEGMENT_BYTES,
            spare_segments=SPARE_SEGMENTS,
            clock=self.clock,
        )
        assert [each.number for each in found] == list(range(after + 1, recovery.appended + 1))
        assert recovery.appended >= (self._end if all_there else self.synced)
        if recovery.appended > self._end:
            assert begun is not None
            assert recovery.appended == self._end + 1
            self.entries.append(begun)
            self.chains.append(recovery.chain)
        del self.entries[recovery.appended :], self.chains[recovery.appended + 1 :]
        for each in found:
            self._check(each)
        assert recovery.foreign == ()
        self.log, self.torn_bytes = log, recovery.torn_bytes


LogMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than reading
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLog = LogMachine.TestCase


@pytest.mark.parametrize("seed", range(10))
def test_the_first_sync_after_a_kill_covers_what_the_earlier_life_wrote(seed: int) -> None:
    disk = SimulatedDisk(Random(seed))
    log, *_ = opened(disk, segment_bytes=1024)
    for value in range(1, 31):
        batch(log, value)
    disk.kill()
    log, found, _ = opened(disk, segment_bytes=1024)
    assert len(found) == 30
    assert log.synced < 30
    assert log.sync() == 30
    disk.lose_power()
    log, found, _ = opened(disk, segment_bytes=1024)
    assert len(found) == 30
    log.close()


@pytest.mark.parametrize("seed", range(10))
def test_after_a_failed_sync_only_what_the_disk_has_is_believed(seed: int) -> None:
    disk = SimulatedDisk(Random(seed))
    log, *_ = opened(disk, segment_bytes=1 << 16)
    batch(log, 1)
    assert log.sync() == 1
    for value in range(2, 8):
        batch(log, value, rows=100)

    def before(operation: Operation) -> None:
        if operation.name == "sync":
            raise OSError(errno.EIO, "bad sector")

    disk.before = before
    with pytest.raises(LogFailed, match=r"could not be synced \(bad sector\)"):
        log.sync()
    disk.before = lambda _operation: None
    with pytest.raises(LogFailed, match="takes nothing more"):
        log.sync()
    assert (log.synced, "bad sector" in log.broken) == (1, True)
    disk.kill()
    log, found, _ = opened(disk, segment_bytes=1 << 16)
    assert log.sync() == len(found) >= 1
    disk.lose_power()
    log, again, _ = opened(disk, segment_bytes=1 << 16)
    assert again == found
    log.close()


@pytest.mark.parametrize("part", [0.3, 1.0])
@pytest.mark.parametrize("power", [False, True])
def test_a_failed_write_leaves_nothing_behind(part: float, power: bool) -> None:
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk, segment_bytes=1 << 16)
    batch(log, 1)
    log.sync()

    def before(operation: Operation) -> None:
        if operation.name == "write":
            raise Partly(int(part * operation.size_bytes), OSError(errno.ENOSPC, "full"))

    disk.before = before
    with pytest.raises(LogFull, match="full"):
        batch(log, 2, rows=1000)
    disk.before = lambda _operation: None
    batch(log, 3, rows=1)
    assert not any(disk.bytes_of(segment_name(1))[1000:])
    if power:
        disk.lose_power()
    else:
        disk.kill()
    log, found, recovery = opened(disk, segment_bytes=1 << 16)
    assert [each.payload for each in found] in (
        [payload(1, 2).tobytes()],
        [payload(1, 2).tobytes(), payload(3, 1).tobytes()],
    )
    assert power or (len(found), recovery.torn_bytes) == (2, 0)
    log.close()


def test_a_reader_does_not_believe_what_it_read_ahead_of_a_failed_write() -> None:
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk, segment_bytes=1 << 16)
    batch(log, 1)
    batch(log, 2)

    def before(operation: Operation) -> None:
        if operation.name == "write":
            raise Partly(operation.size_bytes, OSError(errno.EIO, "so it is"))

    disk.before = before
    with pytest.raises(LogFailed, match="so it is"):
        batch(log, 3)
    disk.before = lambda _operation: None
    reader = log.reader(0)
    values = []
    for appended in (None, 4, None):
        record = reader.next()
        assert record is not None
        values.append(bytes(record.payload))
        if appended is not None:
            batch(log, appended)
    assert values == [payload(value, 2).tobytes() for value in (1, 2, 4)]
    reader.close()
    log.close()
