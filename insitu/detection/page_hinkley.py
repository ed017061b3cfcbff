"""Page-Hinkley test: the loss has lain above its mean for too long.

Page, "Continuous inspection schemes" (1954); Hinkley, "Inference about the change-point from
cumulative sum tests" (1971); with a mean that forgets, as in Gama et al., "A survey on concept
drift adaptation" (2014), section 3.2. With x_t the loss, mu and s its running mean and deviation,

    z_t = min((x_t - mu) / s, clip)
    m_t = m_(t-1) + z_t - tolerance,     M_t = min over the past of m
    a change when   m_t - M_t > threshold

which is the same as the cumulative sum g_t = max(0, g_(t-1) + z_t - tolerance) > threshold; that is
how it is kept here, since m itself would sink without end. mu and s are exponential means over
`memory_steps` (plain ones until so many were seen), taken before x_t is counted.

Deviations: the loss is measured in its own running deviations, at least a thousandth of its mean,
so that the same options serve any objective. One step adds no more than `clip_deviations`, and
counts as no more in mu and s, so that a single wild batch is not a change, and a change does not
hide itself by stretching the deviation. The running mean follows a loss that falls while the model
learns, which the textbook's mean of everything would not. Only a loss that rises is a change.

Costs: a few additions a step; no memory.

Use it when: the loss is at hand and changes are sudden. It is the first one to try.

Measured: with the defaults, of 15 switches on digits (images changed, classes changed) and on a
reaction-diffusion simulation 13 were found, the latest after 12 steps; no false alarm in 34,500
steps; with two other seeds 13 each, the latest after 13, none false. The same two were missed with
every seed: one of the simulation (waves to holes) which leaves the mean loss where it was, so that
the loss does not tell of it, and one of the digits after which the loss falls back before the
excess is reached. A threshold of 17 found that one too, and had 2 false alarms on the simulation.
`insitu bench detection` measures it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from insitu.detection.mean_loss import LossDetector

#: of the mean: a loss that hardly moves is not to be measured by its rounding
_LEAST_DEVIATION = 1e-3


class PageHinkley(LossDetector):
    """Adds up by how much the loss lies above its running mean.

    Example:
        >>> detector = PageHinkley()
        >>> before = [detector.judge_loss(1.0 + 0.1 * (step % 3)) for step in range(100)]
        >>> after = [detector.judge_loss(3.0) for _ in range(20)]
        >>> any(before), any(after)
        (False, True)
    """

    name = "page_hinkley"
    figures: ClassVar[Mapping[str, str]] = {
        "excess": "running deviations: what the loss has lain above its mean by, added up",
        "mean": "as the loss: its running mean",
    }

    _steps: int
    _mean: float
    _variance: float
    _excess: float

    def __init__(
        self,
        *,
        threshold: Annotated[
            float,
            Field(
                gt=0.0,
                description="a change when the excess is larger; larger is later and surer",
                json_schema_extra={"unit": "running deviations"},
            ),
        ] = 20.0,
        tolerance: Annotated[
            float,
            Field(
                ge=0.0,
                description="what the loss may lie above its mean without adding up",
                json_schema_extra={"unit": "running deviations"},
            ),
        ] = 0.5,
        clip_deviations: Annotated[
            float,
            Field(
                gt=0.0,
                description="the most that one step adds",
                json_schema_extra={"unit": "running deviations"},
            ),
        ] = 3.0,
        memory_steps: Annotated[
            int,
            Field(
                ge=2,
                description="steps that the running mean and deviation look back",
                json_schema_extra={"unit": "steps"},
            ),
        ] = 50,
        warm_up_steps: Annotated[
            int,
            Field(
                ge=2,
                description="steps before the first excess is added up",
                json_schema_extra={"unit": "steps"},
            ),
        ] = 20,
    ) -> None:
        super().__init__()
        self._threshold = threshold
        self._tolerance = tolerance
        self._clip = clip_deviations
        self._memory_steps = memory_steps
        self._warm_up_steps = warm_up_steps
        self.restart()

    def judge_loss(self, loss: float) -> bool:
        counted = loss
        if self._steps >= self._warm_up_steps:
            scale = max(math.sqrt(self._variance), _LEAST_DEVIATION * abs(self._mean))
            apart = loss - self._mean
            z = min(apart / scale, self._clip) if scale > 0.0 else self._clip * (apart > 0.0)
            self._excess = max(0.0, self._excess + z - self._tolerance)
            counted = self._mean + z * scale if scale > 0.0 else loss
        self._count(counted)
        return self._excess > self._threshold

    def _count(self, loss: float) -> None:
        """West (1979) with exponential weights: mean, then variance around it."""
        self._steps += 1
        share = 1.0 / min(self._steps, self._memory_steps)
        apart = loss - self._mean
        self._mean += share * apart
        self._variance = (1.0 - share) * (self._variance + share * apart * apart)

    def restart(self) -> None:
        self._steps = 0
        self._mean = 0.0
        self._variance = 0.0
        self._excess = 0.0

    def metrics(self) -> Mapping[str, float]:
        return {"excess": self._excess, "mean": self._mean}

    def history(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "mean": self._mean,
            "variance": self._variance,
            "excess": self._excess,
        }

    def load_history(self, history: Mapping[str, Any]) -> None:
        self._steps = int(history["steps"])
        self._mean = float(history["mean"])
        self._variance = float(history["variance"])
        self._excess = float(history["excess"])


COMPONENT = PageHinkley
