"""A doorbell: any thread rings it, and the one that waits in a poll wakes up.

A ring that finds the bell rung already costs no system call. What the one who rings has changed
before is seen by the one who answers, and no ring is lost: the bell can be rung anew only once it
was emptied, and who answers looks at the world only after that.
"""

from __future__ import annotations

import contextlib
import socket


class Doorbell:
    """Poll `fileno()`, then `answer()`, then look.

    Example:
        >>> bell = Doorbell()
        >>> bell.ring(), bell.ring(), bell.answer()
        (None, None, None)
        >>> bell.close()
    """

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._rung = False

    def fileno(self) -> int:
        return self._inside.fileno()

    def ring(self) -> None:
        """For any thread."""
        if not self._rung:
            self._rung = True
            try:
                self._outside.send(b"x")
            except OSError:
                return  # it is full of rings already, or nobody lives here any more

    def answer(self) -> None:
        """For the one who polls, when there is something to read."""
        with contextlib.suppress(BlockingIOError):
            self._inside.recv(4096)
        # not before: a ring in between would be read away, and the bell stay rung for ever
        self._rung = False

    def close(self) -> None:
        self._inside.close()
        self._outside.close()
