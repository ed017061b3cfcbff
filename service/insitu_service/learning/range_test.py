"""The learning-rate range test on the live stream: nothing is lost, and nothing counts twice.

The next batches are drawn and put aside as copies. They are trained at a rising rate, the trainer
is restored bit by bit, and then the very same batches are trained in their order, as if the test
had never been; only then do counters, hooks and metrics hear of them. Meanwhile the stream goes on
into its buffer. No checkpoint is taken in between, since the batches put aside are in no state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from insitu.analysis.learning_rate_range import LEAST_STEPS, learning_rate_range
from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.stream.buffer import StreamBuffer
from insitu.stream.draw import Draw
from insitu.trainer import Trainer
from insitu_service.commands import Command, CommandQueue

_log = logging.getLogger("insitu.learner")

#: more batches would hold too much of the stream outside of its buffer
MOST_STEPS = 10_000
_TURN_SECONDS = 0.1


@dataclass
class DrawnBatch:
    """A batch on the device of the model, and what it took to get it."""

    batch: Batch
    waited_seconds: float = 0.0
    copy_seconds: float = 0.0


@dataclass
class _Aside:
    """Batches put aside in order, and the draw that ended tasks before its batch, if one came."""

    batches: list[DrawnBatch] = field(default_factory=list)
    last: Draw | None = None


class RangeTest:
    """Carries out the command; called by the learner only.

    Args:
        take: a draw's batch on the device; releases the draw.
        train: trains a batch, and tells everybody.
        learn: the same for a draw that ended tasks.
        give_up: told of the fresh rows of a batch that will never be trained.
    """

    def __init__(
        self,
        trainer: Trainer,
        buffer: StreamBuffer,
        commands: CommandQueue,
        beat: Callable[[], None],
        *,
        batch_size: int,
        take: Callable[[Draw], DrawnBatch],
        train: Callable[[DrawnBatch], None],
        learn: Callable[[Draw], None],
        give_up: Callable[[int], None],
    ) -> None:
        self._trainer = trainer
        self._buffer = buffer
        self._commands = commands
        self._beat = beat
        self._batch_size = batch_size
        self._take = take
        self._train = train
        self._learn = learn
        self._give_up = give_up

    def carry_out(self, command: Command) -> None:
        """Test, restore, train; the command hears what was found, or why nothing was."""
        found: dict[str, Any] = {}
        problem: Exception | None = None
        try:
            steps, options = _options(command)
        except OperatorError as error:
            command.done.set_exception(error)
            return
        aside = self._put_aside(steps, float(command.arguments["wait_seconds"]))
        try:
            test = learning_rate_range(
                self._trainer, [each.batch for each in aside.batches], **options, beat=self._beat
            )
            found = test.as_dict()
            _log.info("learning-rate range test: it suggests %s", found["suggestion"])
        except Exception as error:  # the test failed; the batches are still to be trained
            problem = error
        try:
            self._train_all(aside)
        except Exception as error:
            problem = error
            raise
        finally:
            if problem is None:
                command.done.set_result({**found, "step": self._trainer.steps})
            else:
                command.done.set_exception(problem)

    def _put_aside(self, steps: int, wait_seconds: float) -> _Aside:
        """Up to so many batches; fewer at the end of a task, of the wait, or of the stream."""
        aside, deadline = _Aside(), time.monotonic() + wait_seconds
        while len(aside.batches) < steps:
            self._beat()
            draw = self._buffer.draw(self._batch_size, _TURN_SECONDS)
            if draw is None:
                if self._commands.waiting or time.monotonic() > deadline:
                    break
                self._buffer.rest(_TURN_SECONDS)
            elif draw.ended_tasks:
                aside.last = draw  # what is put aside has to be trained before the task ends
                break
            else:
                drawn = self._take(draw)
                drawn.batch = _copy(drawn.batch)
                aside.batches.append(drawn)
        return aside

    def _train_all(self, aside: _Aside) -> None:
        trained = 0
        try:
            for drawn in aside.batches:
                self._beat()
                trained += 1
                self._train(drawn)
        finally:
            for drawn in aside.batches[trained:]:
                self._give_up(drawn.batch.fresh_rows)
        if aside.last is not None:
            self._learn(aside.last)


def _options(command: Command) -> tuple[int, dict[str, float]]:
    given = command.arguments
    steps, lowest, highest = given["steps"], float(given["lowest"]), float(given["highest"])
    if not LEAST_STEPS <= steps <= MOST_STEPS or not 0.0 < lowest < highest:
        raise OperatorError(
            f"a learning-rate range test of {steps} steps from {lowest:g} to {highest:g}",
            allowed=f"{LEAST_STEPS} to {MOST_STEPS} steps, and 0 < lowest < highest",
            consequence="it was not made",
        )
    return steps, {"lowest": lowest, "highest": highest}


def _copy(batch: Batch) -> Batch:
    """The block that a drawn batch lies in is filled again."""
    fields = {name: tensor.clone() for name, tensor in batch.fields.items()}
    return Batch(fields, batch.provenance.clone(), batch.fresh_rows)
