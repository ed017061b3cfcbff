"""Checkpoints on disk: one directory each, complete or not there.

    checkpoint-000000001200/
        tensors.safetensors     the tensors
        manifest.json           everything else, and the hashes

A checkpoint is written under a hidden name beside its place, every file and the directory is
synced, and then renamed: whatever happens in between, a directory with a checkpoint's name is
a whole checkpoint. One service writes to one root.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

MANIFEST_NAME = "manifest.json"
TENSORS_NAME = "tensors.safetensors"
CHUNK_BYTES = 4 * 1024 * 1024  # hashed and then written while it is still in the cache
_NAME = re.compile(r"checkpoint-(\d{12,})")
_LEFTOVER = re.compile(r"\.(checkpoint-\d{12,})\.(partial|replaced)")


def checkpoint_name(step: int) -> str:
    """The name of a step's directory; names sort as steps do.

    Example:
        >>> checkpoint_name(1200)
        'checkpoint-000000001200'
    """
    return f"checkpoint-{step:012d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint's directory."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def partial_path(path: Path) -> Path:
    """Where a checkpoint is while it is written or removed."""
    return path.parent / f".{path.name}.partial"


def replaced_path(path: Path) -> Path:
    """Where a checkpoint is while another takes its place."""
    return path.parent / f".{path.name}.replaced"


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoints under `root`, oldest first, good or damaged; empty without a root."""
    if not root.is_dir():
        return []
    found = (path for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=step_of)


def remove_leftovers(root: Path) -> list[Path]:
    """Clear what a crash left in the middle of writing. Call at the start, before any writer."""
    cleared = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        place = root / match[1]
        if match[2] == "replaced" and not place.exists():
            path.rename(place)  # the crash came between the two renames of a replacement
        else:
            shutil.rmtree(path)
        cleared.append(path)
    return cleared


def remove(path: Path) -> None:
    """Remove a checkpoint; it loses its name first, so that no half of one remains."""
    hidden = partial_path(path)
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)
