"""The learner: the one thread that touches model, optimizer, strategies, memory and probes.

Its life is a loop of short turns:

    obey the commands that wait        (checkpoint, evaluate, end_task, drain, ...)
    draw a batch from the stream buffer, wait for it at most a moment
    end the tasks that ended before it (consolidate, evaluate)
    train on it, report it, end the tasks before a boundary that was detected
    checkpoint when one is due

Nothing else happens between two steps, and nothing happens during one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from insitu.errors import OperatorError
from insitu.report import StepReport
from insitu.stream.buffer import StreamBuffer
from insitu.stream.draw import Draw
from insitu.stream.transfer import Transfer
from insitu.trainer import NonFiniteLoss, OutOfMemory, Trainer
from insitu_service.commands import Command, CommandQueue
from insitu_service.learning.cool_down import CoolDowns
from insitu_service.learning.examiner import Examiner
from insitu_service.learning.held_back import HeldBack
from insitu_service.learning.non_finite_guard import NonFiniteGuard
from insitu_service.learning.range_test import DrawnBatch, RangeTest
from insitu_service.learning.tally import Tally
from insitu_service.learning.task_ends import TaskEnds
from insitu_service.recording.recorder import Recorder

_log = logging.getLogger("insitu.learner")

Payload = Mapping[str, Any] | Callable[[], Mapping[str, Any]]

#: how long a turn waits for samples before it looks at the commands again
_TURN_SECONDS = 0.1


class Watchers(Protocol):
    """Whoever watches; in the service the hook runner."""

    def emit(self, event: str, payload: Payload) -> None: ...


class Learner:
    """Feeds the trainer from the buffer until it is told to stop.

    Args:
        buffer, trainer, examiner, recorder: the parts; the learner is the only one that calls
            the trainer, the examiner and the recorder.
        commands: what others want; drained between two steps.
        watchers: told of every event.
        close_door: called when admission must stop (drain and stop).
        tally: counts what happens, read by others.
        batch_size: samples drawn for one step.
        drain_on_stop: whether a stop trains what is pending; else that goes into the checkpoint.
        drain_seconds: how long a stop may train before it leaves the rest to the checkpoint.
        most_skipped_steps: skipped in a row before the weights count as diverged.
        evaluate_every_steps: measure on the probes so often, beside the ends of tasks.
        held_back: a batch that an earlier run could not train, and where one is put.
        backlog_samples: accepted, and not in the buffer yet.
    """

    def __init__(
        self,
        buffer: StreamBuffer,
        trainer: Trainer,
        examiner: Examiner,
        recorder: Recorder,
        commands: CommandQueue,
        watchers: Watchers,
        close_door: Callable[[str], None],
        tally: Tally,
        *,
        transfer: Transfer,
        batch_size: int,
        drain_on_stop: bool,
        drain_seconds: float,
        evaluate_every_steps: int | None,
        most_skipped_steps: int,
        beat: Callable[[], None],
        held_back: HeldBack,
        backlog_samples: Callable[[], int] = lambda: 0,
    ) -> None:
        self.state = "starting"
        self.failure: BaseException | None = None
        self._buffer = buffer
        self._trainer = trainer
        self._examiner = examiner
        self._recorder = recorder
        self._commands = commands
        self._watchers = watchers
        self._close_door = close_door
        self._tally = tally
        self._transfer = transfer
        self._batch_size = batch_size
        self._drain_on_stop = drain_on_stop
        self._drain_seconds = drain_seconds
        self._evaluate_every_steps = evaluate_every_steps
        self._task_ends = TaskEnds(trainer, examiner, tally, watchers)
        self._guard = NonFiniteGuard(
            recorder,
            tally,
            self._alert,
            segments=trainer.segments,
            most_skipped_steps=most_skipped_steps,
        )
        self._beat = beat
        self._held_back = held_back
        self._backlog_samples = backlog_samples
        self._cool_downs = CoolDowns(trainer, recorder)
        self._range_test = RangeTest(
            trainer,
            buffer,
            commands,
            beat,
            batch_size=batch_size,
            take=self._take,
            train=self._train,
            learn=self._learn,
            give_up=tally.non_finite_loss,
        )
        self._stops: list[Command] = []
        self._drains: list[Command] = []
        self._drain_deadline = float("inf")

    def run(self) -> None:
        """Run until stopped; afterwards `failure` says whether it ended in error."""
        self.state = "running"
        start = {"step": self._trainer.steps, "resumed_from": self._recorder.resumed_from}
        self._watchers.emit("start", start)
        try:
            self._recorder.begin(self._trainer.steps)
            held_back = self._held_back.take()
            if held_back is not None:
                self._train(DrawnBatch(held_back, 0.0, 0.0))
            while self.state != "stopped":
                self._turn()
        except NonFiniteLoss as error:
            self._fail(error, "the loss is not finite")
        except OutOfMemory as error:
            self._fail(error, "there is not enough memory")
        except Exception as error:
            self._fail(error, "the learner failed")
            _log.exception("the learner failed")
        finally:
            self.state = "stopped"
            self._watchers.emit("stop", {"step": self._trainer.steps, "failure": self._reason()})
            self._refuse_commands()

    def _turn(self) -> None:
        self._beat()
        for command in self._commands.drain():
            self._obey(command)
        if self.state == "stopped":
            return
        self._examiner.take_in()
        draw = self._buffer.draw(self._batch_size, _TURN_SECONDS)
        if draw is not None:
            self._learn(draw)
        elif self.state == "draining":
            self._maybe_drained()
        else:
            self._buffer.rest(_TURN_SECONDS)
        if self.state == "draining" and time.monotonic() > self._drain_deadline:
            self._finish_drain(complete=False)
        if self._guard.healthy:
            self._recorder.save_if_due(self._trainer.steps)

    def _learn(self, draw: Draw) -> None:
        for visit in draw.ended_tasks:
            self._task_ends.of_visit(visit)
        if draw.batch is None:
            self._buffer.release(draw)
            return
        self._train(self._take(draw))

    def _take(self, draw: Draw) -> DrawnBatch:
        """The batch of a draw on the device; the draw is released."""
        batch, copy_seconds = self._transfer(draw)
        self._buffer.release(draw)
        return DrawnBatch(batch, draw.waited_seconds, draw.copy_seconds + copy_seconds)

    def _train(self, drawn: DrawnBatch) -> None:
        batch = drawn.batch
        if self._trainer.steps == 0:
            self._examiner.take_in()  # probes may have come while the draw waited
            self._examiner.examine_untrained(self._trainer)
        labelled = self._trainer.segments.relabel(batch)
        try:
            report = self._trainer.step(batch)
        except NonFiniteLoss as error:
            self._tally.non_finite_loss(batch.fresh_rows)
            self._guard.refused(error)
            return
        except OutOfMemory:
            self._held_back.keep(batch)
            raise
        self._watch_memory()
        self._tally.count(report, drawn.waited_seconds, drawn.copy_seconds)
        self._examiner.watch(labelled, report)
        self._guard.watch(report)
        self._watchers.emit("step", lambda: _step_payload(report))
        if report.boundary is not None:
            self._task_ends.at_boundary(report.boundary)
        self._cool_downs.after_step()
        every = self._evaluate_every_steps
        if every is not None and self._trainer.steps % every == 0:
            self._evaluate()

    def _evaluate(self) -> dict[str, Any]:
        """Measure between the ends of tasks; the scores, by task."""
        self._examiner.take_in()
        scores = self._examiner.examine(self._trainer)
        payload = {
            "step": self._trainer.steps,
            "scores": scores,
            "figures": self._examiner.figures(),
        }
        self._watchers.emit("evaluation", payload)
        return {"scores": scores, "figures": payload["figures"]}

    # commands

    def _obey(self, command: Command) -> None:
        if command.name == "checkpoint":
            self._recorder.save(self._trainer.steps, command.done)
        elif command.name == "evaluate":
            command.done.set_result(self._evaluate())
        elif command.name == "end_task":
            command.done.set_result(self._task_ends.by_command())
        elif command.name == "cool_down":
            self._cool_downs.begin(command)
        elif command.name == "lr_range_test":
            self._range_test.carry_out(command)
        elif command.name == "drain":
            self._begin_drain(command, "the service drains")
        elif command.name == "stop":
            self._begin_stop(command)

    def _begin_stop(self, command: Command) -> None:
        self._stops.append(command)
        if not (command.arguments.get("drain", True) and self._drain_on_stop):
            self._close_door("the service stops")
            self._finish_drain(complete=True)
        elif self.state == "drained":
            self._finish_drain(complete=True)
        else:
            self._begin_drain(None, "the service stops")
            self._drain_deadline = time.monotonic() + self._drain_seconds

    def _begin_drain(self, command: Command | None, why: str) -> None:
        if command is not None:
            self._drains.append(command)
            if self.state == "drained":  # nothing came since
                self._finish_drain(complete=True)
                return
        self.state = "draining"
        self._close_door(why)
        if command is not None:  # for good: what is open now has ended
            for producer_id in self._buffer.producers():
                self._buffer.leave(producer_id)
        self._buffer.end()
        _log.info("%s: training the %d samples that are pending", why, self._pending())

    def _maybe_drained(self) -> None:
        if self._pending() == 0:
            self._finish_drain(complete=True)
        elif not self._buffer.is_ended and self._backlog_samples() == 0:
            # opened again by a mark of the log's backlog, or by who came in at the last moment
            self._buffer.end()

    def _finish_drain(self, *, complete: bool) -> None:
        if not complete:
            _log.warning(
                "the drain took longer than %s s: %d samples stay pending, in the checkpoint",
                self._drain_seconds,
                self._pending(),
            )
        self._buffer.shut()  # what comes after the last checkpoint must not be acknowledged
        problem = self._save_at_end()
        waiting = [*self._drains, *self._stops]
        self.state = "stopped" if self._stops else "drained"
        if self._stops and problem is not None:
            self.failure = problem
        self._drains, self._stops = [], []
        result = {"step": self._trainer.steps, "pending_samples": self._pending()}
        for command in waiting:
            if problem is None:
                command.done.set_result(result)
            else:
                command.done.set_exception(problem)

    def _save_at_end(self) -> OperatorError | None:
        """Write the last checkpoint; why it could not be, if so."""
        try:
            self._recorder.save_at_end(self._trainer.steps)
        except OperatorError as error:
            _log.error("no last checkpoint: %s", error)
            return error
        return None

    def _pending(self) -> int:
        return self._buffer.snapshot().unseen_samples + self._backlog_samples()

    # trouble

    def _watch_memory(self) -> None:
        """Tell when a step had to be made in smaller pieces than before."""
        pieces = self._trainer.micro_batches
        if pieces.retries > self._tally.out_of_memory_retries:
            self._tally.out_of_memory_retries = pieces.retries
            self._alert(
                "out_of_memory",
                f"step {self._trainer.steps}: memory ran out; updates are made in pieces of up to "
                f"{pieces.rows} rows from now on, which takes longer and changes nothing else",
            )

    def _alert(self, kind: str, text: str) -> None:
        _log.warning("%s: %s", kind, text, extra={"key": kind})
        self._tally.alerts[kind] += 1
        self._watchers.emit("alert", {"kind": kind, "text": text, "step": self._trainer.steps})

    def _fail(self, error: BaseException, what: str) -> None:
        self.failure = error
        _log.error("%s: %s", what, error)
        self._close_door(what)
        self._buffer.shut()  # nobody will train what comes now
        refused = isinstance(error, NonFiniteLoss | OutOfMemory)
        if refused and self._trainer.is_finite():
            self._save_at_end()  # the step was not made, and what is pending is worth keeping
        self._alert("learner_failed", f"{what}: {error}")

    def _reason(self) -> str | None:
        return None if self.failure is None else str(self.failure)

    def _refuse_commands(self) -> None:
        stopped = f"the service has stopped at step {self._trainer.steps}"
        consequence = "the cool-down goes on when the service is resumed from a checkpoint"
        self._cool_downs.refuse(OperatorError(stopped, consequence=consequence))
        waiting = [*self._drains, *self._stops, *self._commands.close()]
        for command in waiting:
            command.done.set_exception(
                OperatorError(
                    f"the service has stopped at step {self._trainer.steps}",
                    consequence=f"{command.name} was not carried out",
                )
            )


def _step_payload(report: StepReport) -> dict[str, Any]:
    """Losses stay tensors: whoever takes the payload waits for the device, not the learner."""
    names = ("step", "loss", "loss_fresh", "loss_replayed", "fresh_samples", "replayed_samples")
    return {name: getattr(report, name) for name in (*names, "learning_rate", "skipped")}
