"""What detectors on the loss have in common: they look at one number a step.

The mean of the losses of the fresh rows before the update: the objective's own, without penalties
and untouched by strategies.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from insitu.detection.base import Detector
from insitu.detection.late_reading import Values
from insitu.strategies.base import Observation


class LossDetector(Detector):
    """A detector on the mean loss of the fresh rows."""

    def measure(self, observation: Observation) -> Tensor:
        return observation.losses.mean().reshape(1)

    def judge(self, values: Values) -> bool:
        return self.judge_loss(float(values[0]))

    @abstractmethod
    def judge_loss(self, loss: float) -> bool:
        """Take in the loss of the next step; True when the stream has changed."""
