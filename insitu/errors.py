"""Errors that say what is wrong, whose fault it is, what is allowed, and what follows.

Three faults, three classes: the producer's (bad data or a broken peer), the operator's
(configuration, files, ports, the user's own model code) and ours (a broken invariant).
A service answers the first with a message on the wire, the second with an exit code,
and the third with a request to report it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class InsituError(Exception):
    """Base of every error that insitu raises on purpose.

    Args:
        message: what is wrong, in one sentence, naming the thing and its value.
        allowed: what would have been accepted; empty when there is no range to give.
        consequence: what the service or client does about it.
        remedy: what the reader can do.

    Example:
        >>> error = OperatorError(
        ...     "buffer.capacity_samples is 0", allowed="1 or more",
        ...     consequence="the service does not start")
        >>> print(error)
        buffer.capacity_samples is 0; allowed: 1 or more;
        the service does not start (operator's fault)
    """

    fault: ClassVar[str] = "insitu"

    def __init__(
        self, message: str, *, allowed: str = "", consequence: str = "", remedy: str = ""
    ) -> None:
        self.message = message
        self.allowed = allowed
        self.consequence = consequence
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.message]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.consequence:
            parts.append(self.consequence)
        if self.remedy:
            parts.append(f"remedy: {self.remedy}")
        return f"{'; '.join(parts)} ({self.fault}'s fault)"


class ProducerError(InsituError):
    """The producer sent, or was asked to send, something that cannot be accepted."""

    fault = "producer"


class OperatorError(InsituError):
    """The configuration, the machine or the user's own plug-in is at fault."""

    fault = "operator"


class PluginError(OperatorError):
    """The operator's own model, objective, strategy or memory raised, or is none."""


class InternalError(InsituError):
    """An invariant of insitu is broken; please report it."""

    fault = "insitu"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the closest known name, or nothing.

    Example:
        >>> did_you_mean("capacity_sample", ["capacity_samples", "policy"])
        'did you mean capacity_samples?'
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
