"""The command to cool down: the rate falls to nearly nothing, a checkpoint, and on it goes."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Any

from insitu.errors import OperatorError
from insitu.trainer import Trainer
from insitu_service.commands import Command
from insitu_service.recording.recorder import Recorder

_log = logging.getLogger("insitu.learner")


class CoolDowns:
    """Begins a cool-down and saves at its end; called by the learner only.

    One that a checkpoint was taken in goes on after a resume, and is saved at its end as well.
    """

    def __init__(self, trainer: Trainer, recorder: Recorder) -> None:
        self._trainer = trainer
        self._recorder = recorder
        self._waiting: Future[dict[str, Any]] | None = None
        self._last = self._ended() + 1 if self._cools() else None

    def begin(self, command: Command) -> None:
        """Begin one; a second one meanwhile is refused."""
        schedule = self._trainer.schedule
        try:
            if schedule is None:
                raise OperatorError("the trainer has no schedule to cool down")
            schedule.cool_down(command.arguments["steps"])
        except OperatorError as error:
            command.done.set_exception(error)
            return
        self._last, self._waiting = self._ended() + 1, command.done
        _log.info("cooling down over %d steps", command.arguments["steps"])

    def after_step(self) -> None:
        """Save, if the step was the last of a cool-down."""
        if self._last is None or self._cools():
            return
        ended = self._ended() >= self._last
        self._last = None
        if not ended:  # the trainer went back to a checkpoint of before
            self.refuse(OperatorError("the cool-down was lost in a roll back"))
            return
        done, self._waiting = self._waiting, None
        step = self._trainer.steps
        _log.info("cooled down at step %d", step)
        if self._recorder.keeps_checkpoints:
            saved: Future[dict[str, Any]] = Future()
            self._recorder.save(step, saved)
            if done is not None:
                saved.add_done_callback(lambda future: _tell(done, future, step))
        elif done is not None:
            done.set_result({"path": None, "step": step})

    def refuse(self, error: OperatorError) -> None:
        """Tell whoever waits that the end will not come in this life of the service."""
        if self._waiting is not None:
            self._waiting.set_exception(error)
            self._waiting = None

    def _ended(self) -> int:
        return 0 if self._trainer.schedule is None else self._trainer.schedule.cool_downs

    def _cools(self) -> bool:
        schedule = self._trainer.schedule
        return schedule is not None and schedule.is_cooling


def _tell(done: Future[dict[str, Any]], saved: Future[dict[str, Any]], step: int) -> None:
    problem = saved.exception()
    if problem is not None:
        done.set_exception(problem)
    else:
        done.set_result({**saved.result(), "step": step})
