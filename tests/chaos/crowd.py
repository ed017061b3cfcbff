"""Many simulations in one process: each has a socket and the client's own state machines.

    python -m chaos.crowd OPTIONS.json

Words on its input: `full` (each pushes as much as its window takes), `rate ROWS` (each pushes so
many rows a second, whatever comes back), `stop` (no further pushes, and wait until all is
acknowledged), `mark` (say what happened since the last mark), `finish` (all streams end). Each is
answered by a line of JSON.

One thread for all sockets, so that hundreds of producers cost little more than their messages do.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import select
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from chaos.crowd_member import Crowding, Member
from insitu.wire.session import SessionState

#: between two looks at a member that nothing happens to
_LOOK_SECONDS = 0.1
_FINISH_SECONDS = 120.0


@dataclass
class Crowd:
    """The thread of the process."""

    told: Crowding
    pushes_full: bool = False
    every_seconds: float | None = None
    _due: list[tuple[float, int]] = field(default_factory=list)
    _marked: dict[int, int] = field(default_factory=dict)

    def run(self) -> None:
        """Until it is told to finish."""
        self._context = zmq.Context()
        told = self.told
        numbers = range(told.first, told.first + told.members)
        self.members = [Member(self._context, told, number) for number in numbers]
        self._poll = select.epoll()
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        os.set_blocking(sys.stdin.fileno(), False)
        self._by_descriptor: dict[int, Member] = {}
        for member in self.members:
            self._register(member)
        self._looked_at, self._turn = time.monotonic(), 0
        while self._take_turn():
            pass
        self._context.destroy(linger=1000)

    def _register(self, member: Member) -> None:
        descriptor = int(member.socket.getsockopt(zmq.FD))
        self._by_descriptor[descriptor] = member
        self._poll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def _take_turn(self) -> bool:
        now = time.monotonic()
        until = self._due[0][0] if self._due else now + _LOOK_SECONDS
        wait = max(0.0, min(until, self._looked_at + _LOOK_SECONDS / 8) - now)
        for descriptor, _ in self._poll.poll(wait):
            if descriptor == sys.stdin.fileno():
                if not self._hear():
                    return False
            elif descriptor in self._by_descriptor:
                self._by_descriptor[descriptor].serve(full=self.pushes_full)
        self._push_due()
        self._look()
        return True

    def _push_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now and self.every_seconds is not None:
            due, index = self._due[0]
            member = self.members[index]
            member.push(time.monotonic())
            member.serve(full=False)
            heapq.heapreplace(self._due, (due + self.every_seconds, index))

    def _look(self) -> None:
        """An eighth of the members at a time: PINGs that are due, and silent services."""
        now = time.monotonic()
        if now < self._looked_at + _LOOK_SECONDS / 8:
            return
        self._looked_at, self._turn = now, (self._turn + 1) % 8
        for member in self.members[self._turn :: 8]:
            former = int(member.socket.getsockopt(zmq.FD))
            if member.watch(now):
                self._by_descriptor.pop(former, None)  # closed, and with that out of the poll
                self._register(member)
            member.serve(full=self.pushes_full)

    # -- words -------------------------------------------------------------------------------

    def _hear(self) -> bool:
        words = os.read(sys.stdin.fileno(), 4096).decode().split("\n")
        for word in filter(None, words):
            self._obey(*word.split())
        return bool(words[0]) or len(words) > 1  # nothing at all: whoever started us is gone

    def _obey(self, word: str, *given: str) -> None:
        now = time.monotonic()
        if word in ("full", "rate", "stop"):
            self.pushes_full = word == "full"
            self.every_seconds = self.told.rows / float(given[0]) if word == "rate" else None
            self._due = []
            if self.every_seconds is not None:  # evenly, one after another
                step = self.every_seconds / len(self.members)
                self._due = [(now + index * step, index) for index in range(len(self.members))]
        if word == "mark":
            return self._tell(self._mark())
        if word == "stop":
            self._until(lambda member: not member.window.books.pending_rows)
        if word == "ready":
            self._until(lambda m: m.session.state is SessionState.OPEN)
        if word == "finish":
            self._finish()
        self._tell({"word": word})

    def _mark(self) -> dict[str, Any]:
        taken = {}
        for member in self.members:
            taken[member.number] = member.accepted_rows - self._marked.get(member.number, 0)
            self._marked[member.number] = member.accepted_rows
        latencies = [round(1e6 * each) for member in self.members for each in member.latencies]
        refused = sum(member.refused_pushes for member in self.members)
        for member in self.members:
            member.latencies.clear()
            member.refused_pushes = 0
        return {
            "accepted_rows": taken,
            "pushed_rows": {member.number: member.window.next_row for member in self.members},
            "latencies_us": latencies,
            "refused_pushes": refused,
            "cpu_seconds": time.process_time(),
        }

    def _finish(self) -> None:
        """Everything is acknowledged, and every stream says BYE."""
        self.pushes_full, self.every_seconds, self._due = False, None, []
        self._until(lambda member: not member.window.books.pending_rows)
        for member in self.members:
            member.dialogue.stop_at = time.monotonic() + _FINISH_SECONDS
        self._until(lambda member: member.dialogue.finished(time.monotonic()))

    def _until(self, condition: Any) -> None:
        """Serve all until a condition holds for each."""
        deadline = time.monotonic() + _FINISH_SECONDS
        while not all(map(condition, self.members)):
            assert time.monotonic() < deadline, [m.number for m in self.members if not condition(m)]
            now = time.monotonic()
            for member in self.members:
                if member.watch(now):
                    self._register(member)
                member.serve(full=False)
            time.sleep(0.01)

    @staticmethod
    def _tell(what: dict[str, Any]) -> None:
        print(json.dumps(what), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Crowd(Crowding(**json.loads(Path(sys.argv[1]).read_text()))).run()
