"""How often this process was forked off, counted without a system call.

`os.getpid` costs as much as copying a small push.
"""

from __future__ import annotations

import os


class Forks:
    """`count` is another number in a child than in the process that it was forked from."""

    count = 0


def _forked() -> None:
    Forks.count += 1


os.register_at_fork(after_in_child=_forked)
