"""The drift watch: all detectors of a run, and how long each is quiet after a boundary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from insitu.detection.base import Detector
from insitu.errors import OperatorError
from insitu.strategies.base import Observation


class DriftWatch:
    """Asks every detector at every step; any of them may declare a boundary.

    After a boundary, whoever declared it, all detectors start anew: what they knew is of the task
    that has ended. For `cooldown_steps` after it, and after the start, a detector looks on and is
    not listened to, since a model that has just begun on a task is no measure of the next.

    Args:
        detectors: each with its cooldown, in steps; their names must differ.

    Raises:
        OperatorError: two detectors of one name, or a negative cooldown.
    """

    def __init__(self, detectors: Sequence[tuple[Detector, int]]) -> None:
        self.detectors = {detector.name: detector for detector, _ in detectors}
        self._cooldowns = {detector.name: steps for detector, steps in detectors}
        if len(self.detectors) < len(detectors):
            names = [detector.name for detector, _ in detectors]
            raise OperatorError(f"detectors {', '.join(names)}", allowed="each name once")
        for name, steps in self._cooldowns.items():
            if steps < 0:
                raise OperatorError(f"cooldown_steps of {name!r} is {steps}", allowed="0 or more")
        self._steps = 0  # since the last boundary
        #: boundaries by the detector that found them, since the start of this process
        self.boundaries: Counter[str] = Counter(dict.fromkeys(self.detectors, 0))

    def update(self, observation: Observation) -> tuple[str, ...]:
        """Look at a step that was made; the names of the detectors that declare a boundary."""
        self._steps += 1
        found = tuple(
            name
            for name, detector in self.detectors.items()
            if detector.update(observation) and self._steps > self._cooldowns[name]
        )
        self.boundaries.update(found)
        return found

    def boundary(self) -> None:
        """A boundary is known: start anew."""
        self._steps = 0
        for detector in self.detectors.values():
            detector.reset()

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "detectors": {name: each.state_dict() for name, each in self.detectors.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; one of other detectors is refused by name."""
        if set(state["detectors"]) != set(self.detectors):
            raise OperatorError(
                f"the saved detection has {', '.join(sorted(state['detectors'])) or 'no detector'}",
                allowed=", ".join(sorted(self.detectors)) or "no detector",
                remedy="resume with the detection that the checkpoint was written with",
            )
        self._steps = int(state["steps"])
        for name, detector in self.detectors.items():
            detector.load_state_dict(state["detectors"][name])
