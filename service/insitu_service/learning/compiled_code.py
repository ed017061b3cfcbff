"""Where torch keeps the code that it compiles: in a directory that only this user can write to.

By default that is a directory of a known name in /tmp, whoever made it, and torch runs what lies
in it. On a machine with other users one of them could make it first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def compile_in_private() -> None:
    """Choose a directory of our own, removed at the end; call it before torch is imported.

    Leaves alone what the environment says.
    """
    if _VARIABLE in os.environ or "torch._dynamo" in sys.modules:
        return
    directory = tempfile.mkdtemp(prefix="insitu-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.environ[_VARIABLE] = directory


def keep_compiled(directory: Path) -> None:
    """Keep compiled code for the next start, beside the checkpoints."""
    if "insitu-" in os.environ.get(_VARIABLE, ""):
        os.environ[_VARIABLE] = str(directory / "compiled")
