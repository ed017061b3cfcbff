"""The arrival queue: committed samples in order, and who was in which task when."""

from __future__ import annotations

from collections import deque
from typing import Any

from insitu.sampling import Indices
from insitu.stream.slots import SlotQueue
from insitu.tasks import TaskLedger


class Arrivals:
    """Committed samples that the pace has not admitted yet, oldest first.

    Beside the slots it keeps segments `[producer_id, task, rows]` of neighbours from one
    producer and task, and marks `[producer_id, None, 0]` where a producer left. The ledger
    learns of both only as they are passed, so that visits begin and end at a place in the order
    of arrival and not at a moment in time.
    """

    def __init__(self, capacity: int, ledger: TaskLedger) -> None:
        self._slots = SlotQueue(capacity)
        self._segments: deque[list[Any]] = deque()
        self._ledger = ledger

    def __len__(self) -> int:
        return len(self._slots)

    def push(self, producer_id: str, task: str, slots: Indices) -> None:
        self._slots.push(slots)
        last = self._segments[-1] if self._segments else None
        if last is not None and last[1] == task and last[0] == producer_id:
            last[2] += len(slots)
        else:
            self._segments.append([producer_id, task, len(slots)])

    def mark_left(self, producer_id: str) -> None:
        """The producer leaves its task once everything before has been passed."""
        for producer, task, _ in reversed(self._segments):
            if producer == producer_id:
                if task is None:
                    return
                break
        else:
            if not self._ledger.is_in_a_task(producer_id):
                return
        self._segments.append([producer_id, None, 0])

    def admit(self, count: int) -> tuple[Indices, list[tuple[int, int, int]]]:
        """Pass `count` samples: their slots, and (rows, task index, visit) of each run of them."""
        runs = []
        missing = count
        while missing > 0:
            producer, task, available = self._pass_marks()
            taken = min(available, missing)
            index, visit = self._ledger.arrive(producer, task, taken)
            runs.append((taken, index, visit))
            self._shorten(taken)
            missing -= taken
        return self._slots.pop(count), runs

    def drop(self, count: int) -> Indices:
        """Give up the oldest `count` samples, which never belong to a visit."""
        missing = count
        while missing > 0:
            _, task, available = self._pass_marks()
            taken = min(available, missing)
            self._ledger.refuse(task, taken)
            self._shorten(taken)
            missing -= taken
        return self._slots.pop(count)

    def pass_leading_marks(self) -> None:
        """Let those leave who left before the oldest sample that waits."""
        while self._segments and self._segments[0][1] is None:
            self._ledger.leave(self._segments.popleft()[0])

    def rows_by_task(self) -> dict[str, int]:
        """Waiting samples by name of the task as the producer gave it."""
        counts: dict[str, int] = {}
        for _, task, rows in self._segments:
            if task is not None:
                counts[task] = counts.get(task, 0) + rows
        return counts

    def producers(self) -> set[str]:
        """Ids of those whose samples wait."""
        return {producer for producer, task, _ in self._segments if task is not None}

    def slots(self) -> Indices:
        return self._slots.slots()

    def segments(self) -> list[list[Any]]:
        """A copy, as part of the state."""
        return [list(segment) for segment in self._segments]

    def replace(self, slots: Indices, segments: list[list[Any]]) -> None:
        self._slots.replace(slots)
        self._segments = deque(list(segment) for segment in segments)

    def _pass_marks(self) -> list[Any]:
        self.pass_leading_marks()
        return self._segments[0]

    def _shorten(self, rows: int) -> None:
        self._segments[0][2] -= rows
        if self._segments[0][2] == 0:
            self._segments.popleft()
