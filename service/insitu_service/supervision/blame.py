"""Blame: whose fault an exception in a worker is, told as the exit code of the service."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

from insitu.checkpoint import CheckpointDamaged, CheckpointFailed, NoGoodCheckpoint
from insitu.errors import InsituError, InternalError
from insitu.stream.log.errors import LogFailed, LogFull, LogInUse
from insitu.trainer import NonFiniteLoss, OutOfMemory, is_out_of_memory
from insitu_service import exit_codes

#: top-level packages whose code is ours, or called by ours on its own account
_OURS = frozenset({"insitu", "insitu_service", "insitu_producers", "torch", "numpy", "__main__"})


def exit_code_of(failure: BaseException) -> int:
    """The exit code for an exception that ended a worker.

    What was raised on purpose says itself whose fault it is. Anything else is the operator's when
    it passed through code that is neither ours, torch's, numpy's nor Python's: their model,
    objective, strategy or schedule.

    Example:
        >>> from insitu.errors import OperatorError
        >>> exit_code_of(OperatorError("the model gives 3 outputs")), exit_code_of(ValueError())
        (7, 1)
    """
    if is_out_of_memory(failure):
        return exit_codes.RESOURCE
    by_type: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int], ...] = (
        (NonFiniteLoss, exit_codes.NON_FINITE),
        ((NoGoodCheckpoint, CheckpointDamaged), exit_codes.CHECKPOINT),
        ((CheckpointFailed, OutOfMemory, LogFailed, LogFull, LogInUse), exit_codes.RESOURCE),
        (InternalError, exit_codes.INTERNAL),
        (InsituError, exit_codes.PLUGIN),
    )
    for kinds, code in by_type:
        if isinstance(failure, kinds):
            return code
    theirs = any(_is_theirs(frame) for frame in _frames(failure))
    return exit_codes.PLUGIN if theirs else exit_codes.INTERNAL


def _frames(failure: BaseException) -> Iterator[FrameType]:
    trace = failure.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_theirs(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package not in _OURS and package not in sys.stdlib_module_names
