"""Plateaus of the loss: a task has been learned when its loss, after a peak, lies flat.

Aljundi, Kelchtermans and Tuytelaars, "Task-Free Continual Learning" (2019), section 3.2: over a
sliding window of losses, with the mean mu and the deviation s of the window at the last plateau,

    peak       when the window's mean > mu + peak_deviations s        (the task changed)
    plateau    after a peak, when the window is flat                  (the new task is learned)

The paper consolidates at plateaus: there the weights are good, and the losses that follow are of
a task worth keeping. `at: plateau` does that; `at: peak` tells of the change itself, sooner. The
first plateau of a run ends the time in which the model knows nothing, and is no boundary.

Deviations: the paper calls a window flat when its mean and its variance are under thresholds that
are chosen for each data set. Ours needs no scale: a window is flat when the means of its two halves
differ by no more than `flat_ratio` of the fall since the peak (before the first plateau: of the
largest window's mean). s is the deviation of single losses, as in the paper; `peak_deviations`
is 1 there, which on a long stream is passed by chance. So that a single wild batch is not a peak,
the median of the newer half of the window must lie above mu + s too.

Costs: a few additions a step; one window of numbers.

Use it when: what matters is when to consolidate rather than when the stream changed.

Measured: with the defaults, of 15 switches on digits (images changed, classes changed) and on a
reaction-diffusion simulation 12 were followed by a plateau that was told within 50 steps, and no
other was told in 34,500 steps. Changes that take 40 steps make no peak. `insitu bench detection`
measures it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from insitu.detection.mean_loss import LossDetector


class Plateau(LossDetector):
    """Waits for a peak of the loss, and then for its plateau.

    Example:
        >>> detector = Plateau()
        >>> noise = [0.1 * (step % 3) for step in range(100)]
        >>> learned = [detector.judge_loss(1.0 + each) for each in noise]
        >>> changed = [detector.judge_loss(5.0 * 0.8**i + each) for i, each in enumerate(noise)]
        >>> any(learned), any(changed)
        (False, True)
    """

    name = "plateau"
    figures: ClassVar[Mapping[str, str]] = {
        "window_mean": "as the loss: its mean over the window",
        "plateau_mean": "as the loss: the window's mean at the last plateau; 0 before the first",
    }

    _rising: bool
    _known: bool
    _highest: float
    _plateau_mean: float
    _plateau_variance: float

    def __init__(
        self,
        *,
        window_steps: Annotated[
            int,
            Field(
                ge=4,
                description="steps of the window",
                json_schema_extra={"unit": "steps"},
            ),
        ] = 10,
        peak_deviations: Annotated[
            float,
            Field(
                ge=0.0,
                description="how far above the last plateau a window is a peak",
                json_schema_extra={"unit": "deviations of the loss"},
            ),
        ] = 4.0,
        flat_ratio: Annotated[
            float,
            Field(
                gt=0.0,
                description="largest change within a flat window, as a share of the peak's height",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.1,
        at: Annotated[
            Literal["plateau", "peak"],
            Field(description="what is told of: the plateau after a peak, or the peak"),
        ] = "plateau",
    ) -> None:
        super().__init__()
        self._window_steps = window_steps
        self._peak_deviations = peak_deviations
        self._flat_ratio = flat_ratio
        self._at = at
        self.restart()

    def judge_loss(self, loss: float) -> bool:
        self._window.append(loss)
        if len(self._window) < self._window_steps:
            return False
        window = np.array(self._window)
        mean = float(window.mean())
        if self._rising:
            self._highest = max(self._highest, mean)
            tells = self._known and self._at == "plateau"
            return self._settle(window) and tells
        if self._is_peak(window, mean):
            self._rising, self._highest = True, mean
            self._window.clear()  # flat is what lies flat behind the peak
            return self._at == "peak"
        self._follow(window, mean)
        return False

    def _settle(self, window: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
        """After a peak: whether a plateau is reached, and then note it."""
        half = len(window) // 2
        slope = abs(float(window[half:].mean() - window[:half].mean()))
        floor = self._plateau_mean if self._known else 0.0
        if slope > self._flat_ratio * max(self._highest - floor, 0.0):
            return False
        self._rising = False
        self._note(float(window.mean()), float(window.var()))
        return True

    def _is_peak(self, window: np.ndarray[Any, np.dtype[np.float64]], mean: float) -> bool:
        deviation = self._plateau_variance**0.5
        newest = float(np.median(window[len(window) // 2 :]))
        bound = self._plateau_mean + self._peak_deviations * deviation
        return bool(mean > bound and newest > self._plateau_mean + deviation)

    def _follow(self, window: np.ndarray[Any, np.dtype[np.float64]], mean: float) -> None:
        """On a plateau that goes on: it may still fall, and its noise is known ever better."""
        share = 1.0 / (10 * self._window_steps)
        apart = float(window[0]) - self._plateau_mean
        self._plateau_variance += share * (apart * apart - self._plateau_variance)
        self._plateau_mean += share * (mean - self._plateau_mean)

    def _note(self, mean: float, variance: float) -> None:
        self._known = True
        self._plateau_mean = mean
        self._plateau_variance = variance

    def restart(self) -> None:
        self._window: deque[float] = deque(maxlen=self._window_steps)
        self._rising = True
        self._known = False
        self._highest = 0.0
        self._plateau_mean = 0.0
        self._plateau_variance = 0.0

    def metrics(self) -> Mapping[str, float]:
        window = list(self._window)
        mean = sum(window) / len(window) if window else 0.0
        return {"window_mean": mean, "plateau_mean": self._plateau_mean}

    def history(self) -> dict[str, Any]:
        return {
            "window": list(self._window),
            "rising": self._rising,
            "known": self._known,
            "highest": self._highest,
            "plateau_mean": self._plateau_mean,
            "plateau_variance": self._plateau_variance,
        }

    def load_history(self, history: Mapping[str, Any]) -> None:
        self._window = deque(map(float, history["window"]), maxlen=self._window_steps)
        self._rising = bool(history["rising"])
        self._known = bool(history["known"])
        self._highest = float(history["highest"])
        self._plateau_mean = float(history["plateau_mean"])
        self._plateau_variance = float(history["plateau_variance"])


COMPONENT = Plateau
