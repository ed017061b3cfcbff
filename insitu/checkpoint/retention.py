"""Retention: which checkpoints stay."""

from __future__ import annotations

from pathlib import Path

from insitu.checkpoint.directory import list_checkpoints, remove, step_of
from insitu.checkpoint.reading import verify_checkpoint
from insitu.errors import OperatorError


def prune(root: Path, keep: int, keep_every: int = 0, *, good: Path | None = None) -> list[Path]:
    """Remove old checkpoints, and return the removed.

    Args:
        keep: how many of the newest stay, 1 or more.
        keep_every: checkpoints whose step is a multiple of this stay for ever; 0 for none.
        good: one that is known to be whole, such as the one just written. Otherwise those that
            stay are verified, and where all of them are damaged the newest good one stays too.
    """
    if keep < 1:
        raise OperatorError(f"keep is {keep} checkpoints", allowed="1 or more")
    paths = list_checkpoints(root)
    stay = set(paths[-keep:]) | {p for p in paths if keep_every and step_of(p) % keep_every == 0}
    if good not in stay:
        safe = next((path for path in reversed(paths) if _is_good(path)), None)
        if safe is None:
            return []
        stay.add(safe)
    removed = [path for path in paths if path not in stay]
    for path in removed:
        remove(path)
    return removed


def _is_good(path: Path) -> bool:
    try:
        verify_checkpoint(path)
    except OperatorError:
        return False
    return True
