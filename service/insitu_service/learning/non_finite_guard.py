"""The guard over steps that were not finite: leave them out, go back, or give up.

A single bad batch costs its step. Weights that have diverged make every further step bad: left
alone, a service under `non_finite: skip` would eat its stream for ever without learning from it,
and retention would replace the last healthy checkpoints by diverged ones. So a long row of
skipped steps is treated as `rollback`, or as `stop` where there is nothing to go back to, and
while steps are skipped no checkpoint is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from insitu.checkpoint import NoGoodCheckpoint
from insitu.report import StepReport
from insitu.segments import Segments
from insitu.trainer import NonFiniteLoss
from insitu_service.learning.tally import Tally
from insitu_service.recording.recorder import Recorder

_log = logging.getLogger("insitu.learner")


class NonFiniteGuard:
    """Decides what follows a step that made no update. Used by the learner only.

    Args:
        alert: tells people, by kind and text.
        segments: of the trainer. They do not go back with it: probes and results know tasks by
            indices that were given since.
        most_skipped_steps: skipped in a row before it counts as divergence.
    """

    def __init__(
        self,
        recorder: Recorder,
        tally: Tally,
        alert: Callable[[str, str], None],
        *,
        segments: Segments,
        most_skipped_steps: int,
    ) -> None:
        self._recorder = recorder
        self._tally = tally
        self._alert = alert
        self._segments = segments
        self._most_skipped_steps = most_skipped_steps
        self._skipped_in_a_row = 0

    @property
    def healthy(self) -> bool:
        """The newest step was made, so the state is worth keeping."""
        return self._skipped_in_a_row == 0

    def watch(self, report: StepReport) -> None:
        """A step was made or skipped.

        Raises:
            NonFiniteLoss: too many were skipped, and there is nothing to go back to.
        """
        if not report.skipped:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        self._alert("step_skipped", f"step {report.step}: the loss or a gradient is not finite")
        if self._skipped_in_a_row >= self._most_skipped_steps:
            norm = float("nan") if report.gradient_norm is None else float(report.gradient_norm)
            text = f"{self._skipped_in_a_row} steps in a row were skipped: the weights diverged"
            self._alert("diverged", text)
            self._go_back(NonFiniteLoss(report.step, float(report.loss), norm, "skip"))

    def refused(self, error: NonFiniteLoss) -> None:
        """A step raised, under `rollback` or `stop`.

        Raises:
            NonFiniteLoss: the same, when the service is to stop.
        """
        self._alert("non_finite_loss", str(error))
        if error.policy != "rollback":
            raise error
        self._go_back(error)

    def _go_back(self, error: NonFiniteLoss) -> None:
        if not self._recorder.can_roll_back:
            raise error
        segments = self._segments.state_dict()
        try:
            path = self._recorder.roll_back("trainer")
        except NoGoodCheckpoint:
            raise error from None
        self._segments.load_state_dict(segments)
        self._tally.rolled_back()
        self._skipped_in_a_row = 0
        _log.warning("rolled back to %s", path)
