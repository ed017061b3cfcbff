"""One hook at work: its thread, its short queue and its counters."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insitu.errors import OperatorError
from insitu.hooks import EVENTS
from insitu_service.hooks.actions import Action

log = logging.getLogger("insitu.hooks")

Payload = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
QUEUE_EVENTS = 16
GRACE_SECONDS = 0.5
#: how long a stuck hook is waited for at the end
STUCK_SECONDS = 1.0


@dataclass(frozen=True)
class Hook:
    """One line of the configuration.

    Args:
        name: in metrics and logs; unique.
        event: a key of `insitu.hooks.EVENTS`.
        every: act on each so many events only: the `every`th, the `2 * every`th, ...
        timeout_seconds: after this long it is ended or given up on.
    """

    name: str
    event: str
    action: Action
    every: int = 1
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise OperatorError(
                f"hook {self.name!r} is on {self.event!r}", allowed=", ".join(EVENTS)
            )
        if self.every < 1:
            raise OperatorError(f"hook {self.name!r} has every {self.every}", allowed="1 or more")
        if not self.timeout_seconds > 0:
            raise OperatorError(
                f"hook {self.name!r} has timeout_seconds {self.timeout_seconds}",
                allowed="more than 0",
            )


@dataclass(frozen=True)
class HookStatus:
    """What became of a hook's events; a timeout is not counted as a failure too.

    Args:
        calls: begun; failures and timeouts are among them.
        dropped: never begun, because the hook was busy, stuck or closed.
        pending: waiting now.
        stuck: it is overdue now and cannot be ended.
    """

    hook: str
    event: str
    calls: int
    failures: int
    timeouts: int
    dropped: int
    pending: int
    stuck: bool


class Happened:
    """One event, made into a plain dict once, by the first thread that needs it."""

    def __init__(self, header: dict[str, Any], payload: Payload) -> None:
        self._header, self._payload = header, payload
        self._lock = threading.Lock()
        self._plain: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        with self._lock:
            if self._plain is None:
                fields = self._payload() if callable(self._payload) else self._payload
                self._plain = {**self._header, **{k: _plain(v) for k, v in fields.items()}}
        return {key: _plain(value) for key, value in self._plain.items()}  # each hook its own


def _plain(value: Any) -> Any:
    """A copy without tensors or arrays."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


class HookWorker:
    """One hook, its thread, its queue and its counters.

    Args:
        after: workers that must have nothing left to do before this one acts.
    """

    def __init__(self, hook: Hook, after: Sequence[HookWorker]) -> None:
        self.hook = hook
        self._after = after
        self._changed = threading.Condition()  # guards everything below
        self._waiting: deque[Happened] = deque()
        self._busy_since: float | None = None
        self._overdue = False
        self._finishing = False
        self._seen = self._calls = self._failures = self._timeouts = self._dropped = 0
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"hook-{hook.name}", daemon=True)
        self._thread.start()

    def offer(self, happened: Happened) -> None:
        with self._changed:
            self._seen += 1
            if self._seen % self.hook.every:
                return
            self._watch()
            full = len(self._waiting) >= QUEUE_EVENTS
            if self._overdue or self._finishing or full:
                self._dropped += 1
                reason = (
                    "is stuck" if self._overdue else "is closed" if self._finishing else "is behind"
                )
            else:
                self._waiting.append(happened)
                self._changed.notify_all()
                return
        self._log_once(reason, f"{reason}, its events are dropped")

    def status(self) -> HookStatus:
        with self._changed:
            self._watch()
            status = HookStatus(
                self.hook.name, self.hook.event, self._calls, self._failures, self._timeouts,
                self._dropped, len(self._waiting), self._overdue,
            )  # fmt: skip
        if status.stuck:
            self._log_once("is stuck", "is stuck, its events are dropped")
        return status

    def finish(self) -> None:
        with self._changed:
            self._finishing = True
            self._changed.notify_all()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread, a stuck one but a moment; drop what it has not begun by then."""
        began = time.monotonic()
        while self._thread.is_alive():
            with self._changed:
                self._watch()
                limit = min(timeout_seconds, STUCK_SECONDS) if self._overdue else timeout_seconds
                pause = STUCK_SECONDS if self._overdue else self._seconds_until_overdue()
            left = began + limit - time.monotonic()
            if left <= 0:
                break
            self._thread.join(min(left, max(pause, 0.01)))
        with self._changed:
            undelivered = len(self._waiting) + (self._busy_since is not None)
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        if undelivered:
            self._log_once("close", f"had {undelivered} events left at the end")
        return not undelivered

    def settle(self) -> None:
        """Wait until nothing is left to do, or it is stuck."""
        with self._changed:
            while True:
                self._watch()
                if self._overdue or (not self._waiting and self._busy_since is None):
                    return
                self._changed.wait(self._seconds_until_overdue())

    def _watch(self) -> None:
        """Note that the hook is overdue; the caller holds the lock."""
        if not self._overdue and self._seconds_until_overdue() <= 0:
            self._overdue = True
            self._timeouts += 1

    def _seconds_until_overdue(self) -> float:
        if self._busy_since is None:
            return 1.0
        # an action that can be ended ends itself at the timeout: it gets a moment for that
        return self._busy_since + self.hook.timeout_seconds + GRACE_SECONDS - time.monotonic()

    def _run(self) -> None:
        while (happened := self._next()) is not None:
            problem = self._act(happened)
            with self._changed:
                timed_out = self._overdue or isinstance(problem, TimeoutError) or self._late()
                self._timeouts += timed_out and not self._overdue
                self._failures += problem is not None and not timed_out
                self._busy_since, self._overdue = None, False
                self._changed.notify_all()
            self._report(problem, timed_out)

    def _next(self) -> Happened | None:
        """The next event, when its turn has come; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._finishing)
            if not self._waiting:
                return None
        for worker in self._after:
            worker.settle()
        with self._changed:
            if not self._waiting:  # the runner has given up waiting
                return None
            self._calls += 1
            self._busy_since = time.monotonic()
            return self._waiting.popleft()

    def _late(self) -> bool:
        assert self._busy_since is not None
        return time.monotonic() - self._busy_since > self.hook.timeout_seconds

    def _act(self, happened: Happened) -> BaseException | None:
        try:
            self.hook.action(happened.as_dict(), self.hook.timeout_seconds)
        except BaseException as error:  # whatever a user's function does, even sys.exit()
            return error
        return None

    def _report(self, problem: BaseException | None, timed_out: bool) -> None:
        if timed_out:
            self._log_once("timeout", f"took longer than {self.hook.timeout_seconds:g} s")
        elif problem is not None:
            kind = getattr(problem, "kind", type(problem).__name__)
            self._log_once(kind, f"failed: {type(problem).__name__}: {problem}")

    def _log_once(self, kind: str, text: str) -> None:
        with self._changed:
            if kind in self._logged:
                return
            self._logged.add(kind)
        log.warning(
            "hook %s on %s %s; further such events are only counted",
            self.hook.name, self.hook.event, text,
        )  # fmt: skip
