"""Runs hooks beside the training, each in a thread of its own with a short queue.

`emit` never waits: with nobody listening it is a dict lookup, otherwise an append. A hook that
raises, is slow, or hangs costs its own events and nothing else:

- what it cannot take in time is dropped, the new event before the ones that wait;
- a command or request is ended at its timeout; a Python function that does not come back is
  *stuck*: it is counted as timed out once, its events are dropped until it comes back, and no
  second thread is started for it;
- the first failure of each kind is logged, the others are only counted.

Hooks for `start` run before those of all other events, hooks for `stop` after; both waits are
bounded by the timeouts of the hooks that are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from insitu.errors import InternalError, OperatorError
from insitu.hooks import EVENTS
from insitu_service.hooks.worker import Happened, Hook, HookStatus, HookWorker, Payload

__all__ = ["Hook", "HookRunner", "HookStatus"]


class HookRunner:
    """Delivers events to hooks.

    Args:
        hooks: in any order.
        context: fields that are added to every event, such as `service`.

    Example:
        >>> from insitu_service.hooks.actions import CallFunction
        >>> seen = []
        >>> runner = HookRunner([Hook("mine", "alert", CallFunction(seen.append))])
        >>> runner.emit("alert", {"kind": "step_skipped", "step": 3})
        >>> runner.close(timeout_seconds=10.0)
        True
        >>> seen[0]["event"], seen[0]["step"]
        ('alert', 3)
    """

    def __init__(self, hooks: Sequence[Hook], context: Mapping[str, Any] | None = None) -> None:
        names = [hook.name for hook in hooks]
        if len(set(names)) != len(names):
            raise OperatorError(f"two hooks have one name: {', '.join(sorted(names))}")
        self._context = dict(context or {})
        self._workers: list[HookWorker] = []
        order = list(EVENTS)
        for hook in sorted(hooks, key=lambda hook: order.index(hook.event)):
            first = [w for w in self._workers if hook.event == "stop" or w.hook.event == "start"]
            self._workers.append(HookWorker(hook, [w for w in first if w.hook.event != hook.event]))
        self._by_event = {
            event: tuple(w for w in self._workers if w.hook.event == event) for event in EVENTS
        }

    def wants(self, event: str) -> bool:
        """Whether anybody listens to this event."""
        return bool(self._by_event[event])

    def emit(self, event: str, payload: Payload) -> None:
        """Tell the hooks of this event. Never waits.

        Args:
            payload: the event's fields, or a function that makes them, which is called in the
                hooks' threads. 0-dim tensors become numbers there, so that the caller need not
                wait for the device. Must not change afterwards.
        """
        try:
            workers = self._by_event[event]
        except KeyError:
            raise InternalError(f"there is no event {event!r}", allowed=", ".join(EVENTS)) from None
        if workers:
            happened = Happened({"event": event, "time": time.time(), **self._context}, payload)
            for worker in workers:
                worker.offer(happened)

    def status(self) -> list[HookStatus]:
        """The counters of every hook."""
        return [worker.status() for worker in self._workers]

    def close(self, timeout_seconds: float = 10.0) -> bool:
        """Deliver what waits, then end the threads.

        What is not delivered within the timeout is dropped. Returns whether all was delivered.
        """
        deadline = time.monotonic() + timeout_seconds
        for worker in self._workers:
            worker.finish()
        ended = [worker.join(deadline - time.monotonic()) for worker in self._workers]
        return all(ended)
