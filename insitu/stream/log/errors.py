"""What can go wrong with a log: all of it is for the operator to see to."""

from __future__ import annotations

import errno

from insitu.errors import OperatorError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class LogFull(OperatorError):  # noqa: N818
    """The disk or the quota is full; nothing was written, and the same may be tried again."""


class LogFailed(OperatorError):  # noqa: N818
    """The disk does not do what it is asked to."""


class LogInUse(OperatorError):  # noqa: N818
    """Another service writes to this directory."""


class LogDamaged(OperatorError):  # noqa: N818
    """Something that was safely on the disk is not there any more."""


class LogMismatch(OperatorError):  # noqa: N818
    """A log and what is asked of it do not belong together: schema, version, checkpoint."""


def write_error(what: str, error: OSError) -> OperatorError:
    """The error of a write that failed: `LogFull`, or else `LogFailed`."""
    if error.errno in _FULL:
        return LogFull(
            f"{what}: {error.strerror or error}",
            consequence="nothing more is accepted until there is room",
            remedy="make room, or keep less of the log (log.keep_bytes, log.keep_seconds)",
        )
    return LogFailed(
        f"{what}: {error.strerror or error}",
        consequence="nothing more is accepted until the disk writes again",
        remedy="see to the disk and its mount",
    )
