"""A drawn batch on the device of the model: one asynchronous copy of the whole block."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from insitu.batch import Batch
from insitu.schema import Schema
from insitu.stream.blocks import typed_views
from insitu.stream.draw import Draw


class Transfer:
    """Moves draws to a device; on the CPU the batch is the block itself and nothing moves.

    On CUDA the block is copied from pinned memory without waiting, and an event left on it keeps
    the buffer from filling it again before the copy is done. So `StreamBuffer.release` may be
    called at once.

    Args:
        clock: seconds; only measured with.
    """

    def __init__(
        self,
        schema: Schema,
        device: torch.device,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._schema = schema
        self._device = device
        self._clock = clock

    def __call__(self, draw: Draw) -> tuple[Batch, float]:
        """The batch on the device, and the seconds that the host spent on it."""
        batch = draw.batch
        assert batch is not None, "a draw of ended tasks only"
        if self._device.type == "cpu":
            return batch, 0.0
        started = self._clock()
        assert draw.block is not None
        rows = draw.block.rows[: batch.rows].to(self._device, non_blocking=True)
        if self._device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            draw.block.copied = event
        moved = batch.with_fields(typed_views(self._schema, rows))
        return moved, self._clock() - started
