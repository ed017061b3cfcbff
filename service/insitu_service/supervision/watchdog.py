"""The watchdog: finds a worker that hangs, writes down where, and ends the process.

A hang cannot be mended from inside: the thread may wait for a device, a disk or a lock for ever.
So the stacks of all threads go to stderr and the process ends, for whoever runs it to start it
again with --resume; what was accepted is in the stream log, or in the last checkpoint.

Two lines of defence. The main thread looks at the beats of the workers. And a timer of
`faulthandler`, which needs no interpreter, is wound up by each look: when the main thread itself
does not come by any more, because native code holds the interpreter's lock, the timer does the
same with exit code 1.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import time
from collections.abc import Callable, Mapping

from insitu_service.exit_codes import HANG
from insitu_service.supervision.beat import Beat

_log = logging.getLogger("insitu.daemon")

#: looks are this often; when the main thread was away for longer it was stopped, not they
LOOK_SECONDS = 1.0
_AWAY_SECONDS = 5.0
_STDERR = 2  # the descriptor: the stream may be replaced, or gone


class Watchdog:
    """Looks at the workers.

    Args:
        beats: by name of the worker; each knows its own limit.
        timer_seconds: of the second line of defence; longer than the limits of the beats.
        leave: ends the process at once.
    """

    def __init__(
        self,
        beats: Mapping[str, Beat],
        *,
        timer_seconds: float,
        leave: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._beats = beats
        self._timer_seconds = timer_seconds
        self._leave = leave
        self._clock = clock
        self._looked_at = clock()

    def look(self) -> bool:
        """Whether all are alive; does not return when one hangs. For the main thread, often."""
        faulthandler.dump_traceback_later(self._timer_seconds, exit=True, file=_STDERR)
        now, before = self._clock(), self._looked_at
        self._looked_at = now
        if now - before > _AWAY_SECONDS:  # the whole process was stopped: nobody could come by
            for beat in self._beats.values():
                beat()
        hanging = [name for name, beat in self._beats.items() if not beat.alive]
        if hanging:
            self._end(hanging)
        return not hanging

    def close(self) -> None:
        """No more looks: the service is about to end."""
        faulthandler.cancel_dump_traceback_later()

    def _end(self, hanging: list[str]) -> None:
        ages = ", ".join(
            f"the {name} thread for {self._beats[name].age_seconds:.0f} s" for name in hanging
        )
        _log.critical(
            "hanging: %s; the stacks of all threads follow, and the process ends. Start it again "
            "with --resume or --resume-if-any",
            ages,
        )
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        self._leave(HANG)
