"""The detector contract: a look at every step, and now and then the word that the task changed.

A detector is two halves. `measure` runs on the device and picks the few numbers it wants from a
step: the mean loss, some projections of the inputs, the labels. `judge` runs on the host, gets
these numbers as float64 and says whether the stream has changed. Between the two the numbers
travel without anybody waiting for them (`insitu.detection.late_reading`), so on a GPU a decision is
one step late.

What a detector may rely on: it sees the fresh rows of every step that was made, with the outputs
and losses before the update (so they are prequential: predicted, then learned). Steps that were
skipped do not reach it, and numbers that are not finite are passed over. When it has found a
change it starts anew by itself, and `reset` makes it do so when a boundary was learned of in
another way.

Adding a detector is adding one file: `insitu/detection/NAME.py` with `COMPONENT = TheClass`. Live
parts that it may ask for: `objective`, `schema`, `device`, `generator`, `model`. Its module
docstring says the paper, our deviations, what it costs (`Costs:`), when to use it
(`Use it when:`), and what was measured (`Measured:`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from insitu.detection.late_reading import LateReading, Values
from insitu.errors import OperatorError
from insitu.strategies.base import Observation


class Detector(ABC):
    """Finds changes of a stream."""

    #: the name in reports, metrics and the state; that of its file
    name: str = "detector"
    #: short name -> unit and meaning of every figure that `metrics` may give
    figures: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self._late = LateReading()

    def update(self, observation: Observation) -> bool:
        """Look at a step that was made; True when the stream has changed.

        Args:
            observation: of fresh rows only. Nothing of it is kept.
        """
        values = self._late(self.measure(observation))
        if values is None or values.size == 0 or not np.isfinite(values).all():
            return False
        changed = self.judge(values)
        if changed:
            self.reset()
        return changed

    @abstractmethod
    def measure(self, observation: Observation) -> Tensor:
        """What is read of a step: a small tensor on the device of the batch."""

    @abstractmethod
    def judge(self, values: Values) -> bool:
        """Take in what was measured, all finite; True when the stream has changed."""

    @abstractmethod
    def restart(self) -> None:
        """Forget the stream so far, as if it began now."""

    def reset(self) -> None:
        """Start anew: a boundary is known."""
        self._late.clear()
        self.restart()

    def metrics(self) -> Mapping[str, float]:
        """Figures by short name (of `figures`), read from any thread."""
        return {}

    @abstractmethod
    def history(self) -> dict[str, Any]:
        """What it knows of the stream, as plain data."""

    @abstractmethod
    def load_history(self, history: Mapping[str, Any]) -> None:
        """Take it over."""

    def state_dict(self) -> dict[str, Any]:
        return {**self.history(), "late": self._late.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; what comes next is bit-identical to the saved run.

        Raises:
            OperatorError: it has an unknown or a missing key.
        """
        own = self.state_dict()
        if set(state) != set(own):
            found = ", ".join(sorted(state)) or "nothing"
            raise OperatorError(
                f"the state of detector {self.name!r} holds {found}",
                allowed=", ".join(sorted(own)),
                remedy="resume with the detection that the checkpoint was written with",
            )
        self._late.load_state_dict(state["late"])
        self.load_history(state)
