"""A part of the service under test: writes down the sample ids of every step as it is trained.

Named in a configuration as `chaos_seen:Seen`; the file is named by `CHAOS_SEEN`. A line is what
happened: `start`, `resume STEP`, or `STEP ID ID ...`. One write a line: a process that is killed
leaves whole lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from insitu.batch import Column
from insitu.strategies.base import Observation, Strategy


class Seen(Strategy):
    """Watches, and changes nothing."""

    def __init__(self) -> None:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        self._file = os.open(os.environ["CHAOS_SEEN"], flags, 0o600)
        self._step = 0
        self._write("start")

    def observe(self, observation: Observation) -> None:
        batch = observation.batch
        self._step = observation.step
        ids = batch.column(Column.SAMPLE_ID)[: batch.fresh_rows].tolist()
        self._write(" ".join(map(str, (self._step, *ids))))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._step = state["step"]
        self._write(f"resume {self._step}")

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode() + b"\n")
