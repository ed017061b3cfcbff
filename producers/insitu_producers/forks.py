"""How often this process was forked off, counted without a system call.

`os.getpid` costs as much as copying a small push.
"""

from __future__ import annotations

import os


class _Count:
    forks = 0


def _forked() -> None:
    _Count.forks += 1


os.register_at_fork(after_in_child=_forked)


def forks() -> int:
    """Another number in a child than in the process that it was forked from."""
    return _Count.forks
