"""BatchNorm without weights, whose statistics nothing can poison."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from insitu.layers.moments import Moments, moments_of, standardised
from insitu.layers.task_statistics import TaskStatistics


class BatchStandardisation(nn.Module):
    """Each channel less its mean, by its standard deviation: of the batch, or the running ones.

    As `nn.BatchNorm1d/2d/3d(affine=False)` in any number of dimensions, under the same names in
    the state. Built for what stands before a layer without gradient: in training mode there is no
    autograd graph.

    The running statistics move with the weights: `apply_update` (called by `HebbianUpdate.step`)
    takes over those of the last forward pass in training mode that was `recording`.

    Rows that are not real (`mask`) count for nothing; the statistics are those of the others, up
    to the order in which they are summed.

    Deviations: a channel of a batch that is not finite leaves its running statistics as they are.
    One value a channel has no variance: the running statistics serve, and stay. Once `frozen` they
    serve in training mode too, and never move.

    Example:
        >>> standardise = BatchStandardisation(1)
        >>> standardise(torch.tensor([[1.0], [3.0]]))
        tensor([[-1.0000],
                [ 1.0000]])
        >>> standardise.apply_update()
        >>> standardise.running_mean
        tensor([0.2000])
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    next_mean: Tensor
    next_var: Tensor
    pending: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        #: whether forward passes in training mode move the running statistics
        self.recording = True
        #: whether the running statistics are final
        self.frozen = False
        #: (rows,) bool, which rows of the next passes in training mode are real; None: all
        self.mask: Tensor | None = None
        #: the statistics of tasks that ended, see `keep_tasks`
        self.of_tasks: TaskStatistics | None = None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))
        # what the running statistics become, where there was something to learn from
        self.register_buffer("next_mean", torch.zeros(channels), persistent=False)
        self.register_buffer("next_var", torch.ones(channels), persistent=False)
        # batches that they stand for: 1, or 0 where there is nothing to take over; a number on the
        # device, as a captured graph cannot ask what Python knows
        self.register_buffer("pending", torch.zeros((), dtype=torch.int64), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but once frozen it stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, rows: Tensor) -> Tensor:
        """(rows, channels, *places), the same shape."""
        learns = self.training and not self.frozen
        if self.of_tasks is not None or (learns and self.mask is not None):
            return self._row_by_row(rows, learns)
        values_a_channel = rows.numel() // max(1, rows.shape[1])
        if not learns or values_a_channel < 2:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
                return self._standardised(rows, self.running_mean, self.running_var, False)
        with torch.no_grad():
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            result = self._standardised(rows, mean, variance, True)
            if self.recording:
                known = torch.isfinite(mean) & torch.isfinite(variance)
                torch.where(known, mean, self.running_mean, out=self.next_mean)
                torch.where(known, variance, self.running_var, out=self.next_var)
                self.pending.fill_(1)
        return result

    def _row_by_row(self, rows: Tensor, learns: bool) -> Tensor:
        """Where not all rows are of the batch: some are padding, or of a task that ended."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            mean, variance = self.running_mean, self.running_var
            if learns:
                found = moments_of(rows, self._counted(rows))
                several = found.values > 1.0
                mean = torch.where(several, found.mean, mean)
                variance = torch.where(several, found.variance, variance)
                if self.recording:
                    self._record(found, several)
            if self.of_tasks is not None:
                mean, variance = self.of_tasks.of_rows(rows, mean, variance)
            return standardised(rows, mean, variance, self.eps)

    def _counted(self, rows: Tensor) -> Tensor:
        """(rows,) bool: those that make the statistics of the batch."""
        if self.of_tasks is None:
            assert self.mask is not None
            return self.mask
        without = self.of_tasks.without(rows)
        return without if self.mask is None else without & self.mask

    def _record(self, found: Moments, several: Tensor) -> None:
        moved = self.running_mean.lerp(found.mean, self.momentum)
        torch.where(found.known, moved, self.running_mean, out=self.next_mean)
        moved = self.running_var.lerp(found.unbiased, self.momentum)
        torch.where(found.known, moved, self.running_var, out=self.next_var)
        self.pending.copy_(several)
        if self.of_tasks is not None:
            self.of_tasks.record(found)

    def keep_tasks(self) -> TaskStatistics:
        """From now on each task has statistics of its own, which are kept when it ends."""
        self.of_tasks = TaskStatistics(len(self.running_mean), self.momentum).to(self.running_mean)
        return self.of_tasks

    def apply_update(self) -> None:
        """Take over the statistics that were recorded, once."""
        known = self.pending > 0
        torch.where(known, self.next_mean, self.running_mean, out=self.running_mean)
        torch.where(known, self.next_var, self.running_var, out=self.running_var)
        self.num_batches_tracked += self.pending
        self.pending.zero_()
        if self.of_tasks is not None:
            self.of_tasks.apply_update()

    def discard(self) -> None:
        """Forget what was recorded."""
        self.pending.zero_()
        if self.of_tasks is not None:
            self.of_tasks.discard()

    def _standardised(self, rows: Tensor, mean: Tensor, variance: Tensor, batch: bool) -> Tensor:
        return functional.batch_norm(
            rows, mean, variance, training=batch, momentum=self.momentum, eps=self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.running_mean.shape[0]}, eps={self.eps:g}, momentum={self.momentum:g}"
