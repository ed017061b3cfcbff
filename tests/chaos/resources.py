"""What a process holds: memory, descriptors and processors, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process; our own without a number.

    Example:
        >>> resident_bytes() > 1_000_000
        True
    """
    fields = Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()
    return int(fields[1]) * _PAGE_BYTES


def descriptors(pid: int | None = None) -> int:
    """Open file descriptors of a process.

    Example:
        >>> descriptors() >= 3
        True
    """
    return len(os.listdir(f"/proc/{pid or os.getpid()}/fd"))


def cpu_seconds(pid: int) -> float:
    """Time that a process has had of processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Time that all processors of this machine have worked, or were taken from it by its host."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _waiting, hard, soft, stolen = map(int, fields)
    return (user + nice + system + hard + soft + stolen) / os.sysconf("SC_CLK_TCK")


def threads(pid: int) -> int:
    """Threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))
