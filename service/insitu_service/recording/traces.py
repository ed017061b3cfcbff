"""What an earlier run left behind, for `--resume-if-any`."""

from __future__ import annotations

from insitu.checkpoint import list_checkpoints
from insitu.config import Config


def leaves_traces(config: Config) -> bool:
    """Whether an earlier run left a checkpoint, good or damaged, or may have left a log.

    Damaged checkpoints count: a run that cannot be continued must not begin anew in silence. A log
    that is empty is continued from its beginning, which is the same as to begin.
    """
    checkpoints = config.checkpoint.directory
    kept = checkpoints is not None and bool(list_checkpoints(checkpoints))
    return kept or config.log.directory is not None
