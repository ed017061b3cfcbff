"""Control commands: the table of them, and the queue on which they reach the learner.

Whoever wants something from the learner (HTTP, a signal) posts a command and may wait for its
future. The learner drains the queue between two steps, so a command never meets a half-done step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from insitu.errors import OperatorError, did_you_mean


@dataclass(frozen=True)
class Argument:
    """One argument of a command: what type of JSON it is, its default and its meaning."""

    name: str
    kind: type
    default: Any
    meaning: str

    def accepts(self, value: Any) -> bool:
        """Whether JSON's value is of the kind; a whole number is a number, a boolean is none."""
        kinds = (float, int) if self.kind is float else (self.kind,)
        return type(value) in kinds


@dataclass(frozen=True)
class Declaration:
    """One command that the service understands, and what its future brings."""

    name: str
    meaning: str
    result: str
    arguments: tuple[Argument, ...] = ()

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with defaults filled in; all wrong ones named in one error."""
        known = {argument.name: argument for argument in self.arguments}
        wrong = [
            f"no argument {name!r} {did_you_mean(name, known)}".rstrip()
            for name in given
            if name not in known
        ]
        wrong += [
            f"{name} is {given[name]!r}, not {argument.kind.__name__}"
            for name, argument in known.items()
            if name in given and not argument.accepts(given[name])
        ]
        if wrong:
            raise OperatorError(
                f"command {self.name!r}: {'; '.join(wrong)}",
                allowed=", ".join(f"{a.name} ({a.kind.__name__})" for a in known.values())
                or "no arguments",
                consequence="it was not carried out",
            )
        return {name: given.get(name, argument.default) for name, argument in known.items()}


#: Every command, in the order of the documentation.
COMMANDS: Mapping[str, Declaration] = {
    declaration.name: declaration
    for declaration in (
        Declaration(
            "checkpoint",
            "Save the whole state now.",
            "`path` of the checkpoint, once it is written",
        ),
        Declaration(
            "drain",
            "Take no new batches, train all that has arrived, end the open tasks, then checkpoint. "
            "The service goes on to answer.",
            "`step` and `pending_samples` at the end",
        ),
        Declaration(
            "stop",
            "Stop: by default after draining and a checkpoint, as at SIGTERM.",
            "`step` and `pending_samples` at the end",
            (Argument("drain", bool, True, "train what has arrived first"),),
        ),
        Declaration(
            "end_task",
            "End what is in progress, between two steps: the tasks with samples since the last "
            "boundary are consolidated and measured, and what follows counts as new tasks.",
            "`tasks` that ended, by name",
        ),
        Declaration(
            "cool_down",
            "Let the learning rate fall on a straight line to nearly nothing over the next steps, "
            "save a checkpoint, then go on with the schedule where it was.",
            "`path` of the checkpoint (null without a directory) and `step`, once that is done",
            (Argument("steps", int, 1000, "steps over which the rate falls"),),
        ),
        Declaration(
            "lr_range_test",
            "Find a good learning rate: put the next batches aside, train them at a rising rate, "
            "restore everything, and train them as if nothing had been.",
            "`rates`, `losses` and `smoothed` by step, and the `suggestion`",
            (
                Argument("steps", int, 100, "batches to put aside"),
                Argument("lowest", float, 1e-6, "rate of the first step"),
                Argument("highest", float, 1.0, "rate of the last step"),
                Argument("wait_seconds", float, 60.0, "how long to wait for the batches"),
            ),
        ),
        Declaration(
            "evaluate",
            "Measure all tasks on their held-out samples, between two steps.",
            "`scores` by task and `figures` over tasks",
        ),
    )
}


def declaration(name: str) -> Declaration:
    """The command of this name; an error names the nearest one."""
    if name not in COMMANDS:
        raise OperatorError(
            f"there is no command {name!r}",
            allowed=", ".join(COMMANDS),
            remedy=did_you_mean(name, COMMANDS),
        )
    return COMMANDS[name]


@dataclass(frozen=True)
class Command:
    """A command on its way: its name, its checked arguments, and the future of its result.

    The result is a dict that JSON can hold.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    done: Future[dict[str, Any]] = field(default_factory=Future)


class CommandQueue:
    """Commands from any thread to the learner; bounded, so that nobody can fill the memory.

    Args:
        capacity_commands: how many may wait; one more is refused.
        on_post: called after each post, to wake a learner that waits for data.

    Example:
        >>> queue = CommandQueue()
        >>> future = queue.post("checkpoint")
        >>> for command in queue.drain():
        ...     command.done.set_result({"path": "checkpoint-000000000001"})
        >>> future.result()
        {'path': 'checkpoint-000000000001'}
    """

    def __init__(
        self, capacity_commands: int = 64, on_post: Callable[[], None] = lambda: None
    ) -> None:
        self._waiting: deque[Command] = deque()
        self._capacity = capacity_commands
        self._on_post = on_post
        self._closed = False
        self._lock = threading.Lock()

    def post(self, name: str, arguments: Mapping[str, Any] | None = None) -> Future[dict[str, Any]]:
        """Queue a command.

        Raises:
            OperatorError: no such command or argument, too many waiting, or the service stopped.
        """
        command = Command(name, declaration(name).check(arguments or {}))
        with self._lock:
            if self._closed:
                raise OperatorError(
                    f"command {name!r} comes too late",
                    consequence="the service has stopped and takes no more commands",
                )
            if len(self._waiting) >= self._capacity:
                raise OperatorError(
                    f"command {name!r} is refused: {self._capacity} commands wait already",
                    remedy="wait for the step in progress to end, then ask again",
                )
            self._waiting.append(command)
        self._on_post()
        return command.done

    def drain(self) -> list[Command]:
        """All commands that wait, oldest first. Those that were cancelled are left out."""
        if not self._waiting:  # what the learner finds between nearly all steps; needs no lock
            return []
        with self._lock:
            commands = list(self._waiting)
            self._waiting.clear()
        return [command for command in commands if command.done.set_running_or_notify_cancel()]

    @property
    def waiting(self) -> bool:
        """Whether somebody waits to be heard."""
        return bool(self._waiting)

    def close(self) -> list[Command]:
        """Take no more commands; those that wait, for the caller to settle."""
        with self._lock:
            self._closed = True
        return self.drain()
