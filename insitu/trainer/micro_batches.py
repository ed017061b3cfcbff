"""Micro-batches: an update whose activations do not fit into memory, made piece by piece, exactly.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021),
section 3.2 (gradient caching): what takes memory is the graph of the model, so

    outputs = model(piece) for all pieces, without a graph          forward
    d loss / d outputs, of losses and penalties over all rows       backward to the outputs
    for every piece: model(piece) again, with its graph, and backward from its part of the gradient

The gradient is that of the whole batch whatever losses and strategies make of the rows together,
since only the model is run in pieces; it costs one forward pass more.

Deviations: the size of a piece is found by halving, and kept for the steps that follow. The random
state is that of the first pass in the second one, so dropout drops the same; it drops other
elements than it would have in one piece. What layers count in a forward pass (running statistics)
counts once; that of an attempt that failed is counted too.

Where rows depend on one another in the model itself (batch normalisation in training mode), the
rows of a piece see that piece alone: the update is the one of smaller batches. Hebbian layers learn
from their forward pass, which cannot be made twice: with them nothing is tried again.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.trainer import state

#: what errors say that are about memory and of no class of their own
_SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


class OutOfMemory(OperatorError):  # noqa: N818 (the field's own word for it)
    """Memory ran out in an update, and smaller pieces did not help; the update was not made."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on whatever device.

    Example:
        >>> is_out_of_memory(torch.OutOfMemoryError()), is_out_of_memory(RuntimeError("else"))
        (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


class MicroBatches:
    """How many rows fit, as far as is known, and passes over so many at a time.

    Args:
        criterion: the model, and how it is run.
        device: where it is.
        forward_learns: whether the forward pass itself changes what is learned, so that it cannot
            be made twice (Hebbian layers).

    Example:
        >>> from insitu.objectives.regress import Regress
        >>> from insitu.schema import Schema
        >>> schema = Schema.of({"x": ("float32", (2,)), "y": ("float32", (1,))})
        >>> criterion = Criterion(nn.Linear(2, 1), Regress(schema))
        >>> pieces = MicroBatches(criterion, torch.device("cpu"))
        >>> pieces.shrink(64)  # 64 rows did not fit
        >>> pieces.rows, pieces.retries
        (32, 1)
    """

    def __init__(
        self, criterion: Criterion, device: torch.device, *, forward_learns: bool = False
    ) -> None:
        self._criterion = criterion
        self._device = device
        self._forward_learns = forward_learns
        module = criterion.module
        coupled = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
        self._least_rows = 2 if coupled else 1  # one row has no statistics
        #: the most rows of a piece; None until memory has run out
        self.rows: int | None = None
        #: how often an update was tried again in smaller pieces
        self.retries = 0

    def shrink(self, rows: int) -> None:
        """Memory ran out with a batch of `rows`: the pieces of the next attempt are half as large.

        Raises:
            OutOfMemory: they are as small as they can be, or nothing may be tried again.
        """
        tried = rows if self.rows is None else min(rows, self.rows)
        if self._forward_learns or tried < 2 * self._least_rows:
            raise self._exhausted(rows, tried)
        self.rows = tried // 2
        self.retries += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _exhausted(self, rows: int, tried: int) -> OutOfMemory:
        why = f"pieces of {tried} row{'s' * (tried > 1)} do not fit either"
        if self._forward_learns:
            why = "Hebbian layers learn in the forward pass, so it is not made again in pieces"
        return OutOfMemory(
            f"memory on {self._device} ran out in an update of {rows} rows; {why}",
            consequence="the update was not made and training stops",
            remedy="free memory on the device, lower trainer.batch_size or samples_per_step, "
            "or choose a smaller model",
        )

    def passes(self, batch: Batch) -> Passes | None:
        """Both passes of an update over normalised rows in pieces; None where they fit as one."""
        if self.rows is None or batch.rows <= self.rows:
            return None
        pieces = max(1, min(-(-batch.rows // self.rows), batch.rows // self._least_rows))
        edges = [batch.rows * i // pieces for i in range(pieces + 1)]
        parts = [
            batch.select(slice(start, stop), max(0, min(batch.fresh_rows, stop) - start))
            for start, stop in pairwise(edges)
        ]
        return Passes(self._criterion, parts, self._device)


class Passes:
    """The two passes of one update over the pieces of its batch."""

    def __init__(self, criterion: Criterion, parts: list[Batch], device: torch.device) -> None:
        self._criterion = criterion
        self._parts = parts
        self._buffers = list(criterion.module.buffers())
        self._counted = [buffer.clone() for buffer in self._buffers]
        self._device = device
        self._generators = state.of_generators(device)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """The outputs for all rows, a leaf to collect their gradient in."""
        try:
            outputs = torch.cat([self._criterion.outputs(part) for part in self._parts])
        finally:
            self._uncount()
        return outputs.requires_grad_()

    def backward(self, outputs: Tensor) -> None:
        """Add to the parameters' gradients what the gradient of the outputs is worth."""
        if outputs.grad is None:  # nothing that is trained asks the model
            return
        afterwards = state.of_generators(self._device)
        state.load_generators(self._generators, self._device)
        gradients = torch.split(outputs.grad, [part.rows for part in self._parts])
        try:
            for part, gradient in zip(self._parts, gradients, strict=True):
                torch.autograd.backward(self._criterion.outputs(part), gradient)
        except BaseException:
            self._uncount()
            raise
        state.load_generators(afterwards, self._device)

    @torch.no_grad()
    def _uncount(self) -> None:
        for buffer, before in zip(self._buffers, self._counted, strict=True):
            buffer.copy_(before)
