"""The alarm: tells once when the service cannot take samples, and once when it can again."""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger("insitu.daemon")


class Alarm:
    """Watches a reason that comes and goes.

    Args:
        reason: in words; empty while all is well.
        tell: called with a kind and a text when a reason appears, as for any alert.
    """

    def __init__(self, reason: Callable[[], str], tell: Callable[[str, str], None]) -> None:
        self._reason = reason
        self._tell = tell
        self._standing = ""

    def look(self) -> None:
        """Call it often; by one thread."""
        reason = self._reason()
        if reason and not self._standing:
            _log.error("nothing is accepted: %s", reason)
            self._tell("ingest_stopped", reason)
        elif self._standing and not reason:
            _log.warning("samples are accepted again")
        self._standing = reason
