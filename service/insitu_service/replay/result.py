"""What a replay has found, for one configuration, and a curve of its losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Payload = Mapping[str, Any] | Callable[[], Mapping[str, Any]]

#: steps of which the curve holds the mean
WINDOW_STEPS = 20


@dataclass(frozen=True)
class ReplayResult:
    """One configuration on the stream.

    Args:
        loss, score: prequential means: each sample was predicted before it was learned from.
        figures: over tasks, as `/status` gives them: average, forgetting and so on; empty where
            the stream had no probes.
        losses: mean loss of fresh rows over windows of `WINDOW_STEPS` steps.
        audit: rows drawn and dropped, and their sums, as in the checkpoint.
    """

    name: str
    steps: int
    samples: int
    loss: float
    score: float
    metric: str
    figures: Mapping[str, float]
    losses: tuple[float, ...]
    seconds: float
    checkpoint: str
    audit: Mapping[str, int] = field(default_factory=dict)


class LossCurve:
    """Watches a learner and keeps its losses, which stay on the device until a window is full."""

    def __init__(self) -> None:
        self.windows: list[float] = []
        self._waiting: list[torch.Tensor] = []

    def emit(self, event: str, payload: Payload) -> None:
        """Told of every event; takes the steps."""
        if event != "step":
            return
        content = payload() if callable(payload) else payload
        self._waiting.append(torch.as_tensor(content["loss_fresh"]).detach())
        if len(self._waiting) == WINDOW_STEPS:
            self.close()

    def close(self) -> None:
        """Take in a window that is not full."""
        if self._waiting:
            self.windows.append(float(torch.stack(self._waiting).float().mean()))
            self._waiting = []
