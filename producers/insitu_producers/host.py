"""Which machine this is, and which boot of it: how a service tells a producer beside it."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def host_id() -> str:
    """The machine's name."""
    return socket.gethostname()[:128]


def boot_id() -> str:
    """The kernel's name of this boot; empty where there is none."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()[:128]
    return ""
