"""What systemd wants to hear: ready, stopping, still alive. Silent when nobody listens.

Protocol: sd_notify(3), datagrams of `NAME=value` lines to the socket in NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Supervisor:
    """Talks to the service manager that started us, if there is one.

    Args:
        environment: with NOTIFY_SOCKET and WATCHDOG_USEC as systemd sets them.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # an abstract socket
            self._address = "\0" + self._address[1:]
        watchdog_us = int(environment.get("WATCHDOG_USEC", "0") or 0)
        #: how often `alive` is to be called; half of what systemd allows; None when it is off
        self.interval_seconds = watchdog_us / 2e6 if watchdog_us else None

    def ready(self, status: str) -> None:
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self._notify("RELOADING=1")

    def alive(self) -> None:
        self._notify("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        self._notify("STOPPING=1", f"STATUS={status}")

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return  # the manager went away; that is its business
