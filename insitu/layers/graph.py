"""The whole Hebbian step as one CUDA graph: one launch in place of some fifty."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.layers.capture import capture
from insitu.layers.update import HebbianUpdate, decisions


class CapturedStep:
    """Forward pass and move of Hebbian layers, captured once and replayed for every batch.

    A batch is copied into memory that never moves; a smaller one is padded with rows that teach
    nothing, so all sizes up to `rows` take two graphs. What decides which operators run (training
    or evaluation, plastic, recording, frozen) is looked at before every step; where it has changed,
    as when a block is frozen, the step is captured anew. On other devices the same operators run
    one by one.

    Deviations: a padded batch sums in another order, so weights agree to rounding.

    Not run on a GPU yet; see `insitu/docs/hebbian.md`.

    Args:
        module: what makes features of rows; nothing in it may draw random numbers or wait for the
            device. No graph for autograd is built.
        update: of this module.
        rows: of the largest batch.

    Raises:
        OperatorError: a batch of more rows or of another shape; a module that keeps the
            standardisation of every task, whose tables grow.

    Example:
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> layer = HebbianLinear(3, 4, SoftHebb(), AdaptiveRates(0.05))
        >>> step = CapturedStep(layer, HebbianUpdate(layer), rows=8)
        >>> step(torch.rand(8, 3)).shape, step(torch.rand(5, 3)).shape
        (torch.Size([8, 4]), torch.Size([5, 4]))
        >>> layer.updates
        tensor(2)
    """

    def __init__(self, module: nn.Module, update: HebbianUpdate, rows: int) -> None:
        if rows < 1:
            raise OperatorError(f"a captured step of {rows} rows", allowed="1 or more")
        self._module, self._update, self._count = module, update, rows
        self._needs_labels = any(layer.rule.needs_labels for layer in update.layers)
        self._rows: Tensor | None = None
        self._labels: Tensor | None = None
        self._real: Tensor | None = None
        # by whether rows are masked
        self._steps: dict[bool, Callable[[], Tensor]] = {}
        self._decided: Hashable = None

    def __call__(self, rows: Tensor, labels: Tensor | None = None) -> Tensor:
        """The features of the rows, in memory that the next call writes to.

        Args:
            rows: (1 to `rows` of them, channels, *places), always on the same device.
            labels: (rows,) integers, for a rule that needs them.
        """
        padded = self._take(rows, labels)
        decided = (self._module.training, decisions(self._update.parts))
        if decided != self._decided:
            self._steps.clear()
            self._decided = decided
        if padded not in self._steps:
            self._steps[padded] = self._captured(padded, rows.device)
        features = self._steps[padded]()
        self._update.tell_followers()
        return features[: rows.shape[0]]

    def _captured(self, padded: bool, device: torch.device) -> Callable[[], Tensor]:
        state = [*self._module.parameters(), *self._module.buffers()]
        return capture(lambda: self._step(padded), state, device)

    def _step(self, padded: bool) -> Tensor:
        assert self._rows is not None
        with torch.no_grad(), self._recording(padded):
            features: Tensor = self._module(self._rows)
            self._update.move()
        return features

    def _recording(self, padded: bool) -> AbstractContextManager[None]:
        return self._update.recording(self._labels, self._real if padded else None)

    def _take(self, rows: Tensor, labels: Tensor | None) -> bool:
        """Copy a batch to where the step finds it; whether it has been padded."""
        count = rows.shape[0]
        if self._rows is None:
            self._rows = _of_rows(rows, self._count)
            self._labels = rows.new_full((self._count,), -1, dtype=torch.int64)
            self._real = rows.new_zeros(self._count, dtype=torch.bool)
        assert self._labels is not None
        assert self._real is not None
        if not 1 <= count <= self._count or rows.shape[1:] != self._rows.shape[1:]:
            raise OperatorError(
                f"a captured step was given rows of {list(rows.shape)}",
                allowed=f"1 to {self._count} of {list(self._rows.shape[1:])}",
                remedy="capture another step for them",
            )
        self._rows[:count].copy_(rows, non_blocking=True)
        if self._needs_labels and labels is not None:
            self._labels[:count].copy_(labels, non_blocking=True)
        if count == self._count:
            return False
        self._rows[count:].zero_()
        self._labels[count:].fill_(-1)
        self._real.copy_(torch.arange(self._count, device=rows.device) < count)
        return True


def _of_rows(rows: Tensor, count: int) -> Tensor:
    """Zeros of so many rows, laid out in memory as `rows`."""
    made = rows.new_zeros(count, *rows.shape[1:])
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(rows.dim())
    if last is None or rows.is_contiguous() or not rows.is_contiguous(memory_format=last):
        return made
    return made.contiguous(memory_format=last)
