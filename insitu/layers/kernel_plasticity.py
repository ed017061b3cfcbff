"""Kernel plasticity: kernels that served former tasks move less, one gain a kernel.

After R. Casciotti, "Brain-inspired continual learning in Hebbian deep neural networks" (master's
thesis, Politecnico di Milano, 2025). With the change a_j = mean |rate_j D_j| that kernel j would
make in a step, before any gain, and hits_j, the images in which j was among the `top` kernels by
its mean activation:

    in a task:      running mean and deviation of a_j over the steps; hits and images counted
    at its end:     importance_j <- max(retention importance_j, hits_j / images)
                    theta_j      <- mean_j + deviations deviation_j
                    protected    <- the round(protected_share kernels) of highest importance
    in a step:      gain_j, by the mode, for protected kernels (all, for soft)
        threshold   damped where a_j > theta_j; when any is, kernels that are not protected get
                    `boosted` in place of 1
        cap         min(1, damped theta_j / a_j): no step is larger than damped theta_j
        soft        1 / (1 + strength importance_j), for every kernel
        lock        0
        off         1

Deviations: theta of a kernel comes from the task that gave it its importance, and is kept while
that importance is: a later task, in which it was held back or silent, does not lower or raise it.
An importance of zero protects nothing, so a kernel that never was among the `top` stays free. With
`spread` a kernel is as important as that share of its more important neighbour's importance, where
neighbours are next in number.

Beside what the equations need, for those who look: the largest a_j of the task, the mean of
gain_j a_j, which is how far the kernel went, and of the last task that ended what it came to.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.layers.hebbian import HebbianLayer

Mode = Annotated[
    Literal["threshold", "cap", "soft", "lock", "off"],
    Field(
        description="threshold damps large steps of protected kernels, cap bounds them, soft "
        "slows every kernel by its importance, lock stops protected kernels, off changes nothing"
    ),
]

#: what is counted in a task and begins anew with the next
_OF_THE_TASK = ("change_mean", "change_squares", "change_largest", "moved_mean", "hits")
_COUNTS = ("steps", "images")
#: what they came to in the last task, for those who look
_OF_THE_LAST_TASK = ("last_share", "last_change_mean", "last_change_largest", "last_moved_mean")


class KernelPlasticity(nn.Module):
    """What one Hebbian layer did for former tasks, and how freely its kernels may move.

    In a step: `watch(activations)` in the forward pass, `modulate()` before the update, `record()`
    after it. All that it knows is in buffers, on the device of the layer.

    Args:
        layer: whose `gain` is set.
        mode, protected_share, damped, boosted, deviations, strength, retention, spread, top: above.

    Example:
        >>> from insitu.layers.learning_rates import ConstantRates
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> layer = HebbianLinear(3, 4, SoftHebb(), ConstantRates(0.1))
        >>> plasticity = KernelPlasticity(layer, mode="lock", protected_share=0.5, top=1)
        >>> plasticity.watch(layer(torch.rand(8, 3)))
        >>> plasticity.modulate(); layer.apply_update(); plasticity.record()
        >>> plasticity.end_task()
        >>> int(plasticity.protected.sum()) <= 2
        True
    """

    steps: Tensor
    change_mean: Tensor
    change_squares: Tensor
    change_largest: Tensor
    moved_mean: Tensor
    hits: Tensor
    images: Tensor
    importance: Tensor
    theta: Tensor
    protected: Tensor
    last_share: Tensor
    last_change_mean: Tensor
    last_change_largest: Tensor
    last_moved_mean: Tensor
    change: Tensor
    moved: Tensor
    seen_hits: Tensor

    def __init__(
        self,
        layer: HebbianLayer,
        *,
        mode: Literal["threshold", "cap", "soft", "lock", "off"] = "cap",
        protected_share: float = 0.5,
        damped: float = 0.1,
        boosted: float = 1.0,
        deviations: float = 0.0,
        strength: float = 10.0,
        retention: float = 1.0,
        spread: float = 0.0,
        top: int = 8,
    ) -> None:
        super().__init__()
        kernels = layer.weight.shape[0]
        if not 1 <= top <= kernels:
            raise OperatorError(
                f"the top {top} kernels of an image, in a layer of {kernels}",
                allowed=f"1 to {kernels}",
            )
        # hidden from nn.Module: the layer is not a part of this, only watched
        self._watched = (layer,)
        self.mode, self.protected_share, self.damped, self.boosted = (
            mode,
            protected_share,
            damped,
            boosted,
        )
        self.deviations, self.strength = deviations, strength
        self.retention, self.spread, self.top = retention, spread, top
        like = layer.norms
        for name in (*_OF_THE_TASK, "importance", "theta", *_OF_THE_LAST_TASK):
            self.register_buffer(name, torch.zeros_like(like))
        self.register_buffer("protected", torch.zeros_like(like, dtype=torch.bool))
        for name in _COUNTS:
            self.register_buffer(name, torch.zeros((), dtype=like.dtype, device=like.device))
        # of the step that is under way
        self.register_buffer("change", torch.zeros_like(like), persistent=False)
        self.register_buffer("moved", torch.zeros_like(self.steps), persistent=False)
        self.register_buffer("seen_hits", torch.zeros_like(like), persistent=False)
        self._seen_images: Tensor | int = 0
        if layer.gain is None:
            layer.gain = torch.ones_like(like)

    @property
    def layer(self) -> HebbianLayer:
        return self._watched[0]

    @torch.no_grad()
    def watch(self, activations: Tensor) -> None:
        """Count who is among the `top` in each image.

        Args:
            activations: (rows, kernels, *places) of the layer, after its Triangle if it has one;
                rows that are not real by the layer's mask do not count.
        """
        mask = self.layer.mask
        mean = activations
        if activations.dim() > 2:
            mean = activations.flatten(2).mean(dim=2, dtype=self.seen_hits.dtype)
        highest = mean.topk(self.top, dim=1, sorted=False).indices
        self.seen_hits.zero_()
        counted = torch.ones_like(self.seen_hits[:1]).expand(len(highest))
        if mask is not None:
            counted = mask.to(counted.dtype)
        each = counted.repeat_interleave(self.top, output_size=highest.numel())
        self.seen_hits.index_add_(0, highest.flatten(), each)
        self._seen_images = len(highest) if mask is None else mask.sum()

    @torch.no_grad()
    def modulate(self, third_factor: Tensor | float = 1.0) -> None:
        """Set the layer's gain for the direction that it has recorded.

        Args:
            third_factor: m(t), which multiplies the gain of every kernel.
        """
        layer = self.layer
        mean = layer.direction.abs().flatten(1).mean(dim=1)
        torch.mul(mean, layer.learning_rates_in_force * layer.scale, out=self.change)
        self.moved.copy_(layer.scale > 0.0)  # nothing recorded: no step
        assert layer.gain is not None
        torch.mul(self.gain(), third_factor, out=layer.gain)

    def gain(self) -> Tensor:
        """(kernels,) of the present step, by the mode, without the third factor."""
        if self.mode == "off":
            return torch.ones_like(self.change)
        if self.mode == "soft":
            return 1.0 / (1.0 + self.strength * self.importance)
        if self.mode == "lock":
            return (~self.protected).to(self.change.dtype)
        if self.mode == "cap":
            bound = self.damped * self.theta / self.change.clamp_min(1e-30)
            return torch.where(self.protected, bound.clamp(max=1.0), 1.0)
        exceeds = self.protected & (self.change > self.theta)
        free = torch.where(exceeds.any(), self.boosted, 1.0)
        return torch.where(exceeds, self.damped, torch.where(self.protected, 1.0, free))

    @torch.no_grad()
    def record(self) -> None:
        """The update was made: count its changes and its images."""
        self.steps += self.moved
        share = self.moved / self.steps.clamp_min(1.0)
        apart = self.change - self.change_mean
        self.change_mean += apart * share
        self.change_squares += apart.mul_(self.moved) * (self.change - self.change_mean)
        # where nothing was recorded the change is 0
        torch.maximum(self.change_largest, self.change, out=self.change_largest)
        assert self.layer.gain is not None
        self.moved_mean.lerp_(self.change * self.layer.gain, share)
        self.hits += self.seen_hits
        self.images += self._seen_images
        self._seen_images = 0
        self.seen_hits.zero_()

    @torch.no_grad()
    def end_task(self) -> None:
        """Consolidate what was counted since the last end, and begin anew."""
        shares = self.hits / self.images.clamp_min(1.0)
        deviation = (self.change_squares / self.steps.clamp_min(1.0)).sqrt()
        theta = self.change_mean + self.deviations * deviation
        kept = self.retention * self.importance
        newer = (shares > kept) | (self.theta == 0.0)
        self.theta.copy_(torch.where(newer, theta, self.theta))
        self.importance.copy_(torch.maximum(kept, shares))
        ranked = self._spread_out(self.importance)
        count = round(self.protected_share * len(ranked))
        self.protected.zero_()
        if count:
            self.protected[ranked.topk(count).indices] = True
            self.protected &= ranked > 0.0
        self.last_share.copy_(shares)
        for name in ("change_mean", "change_largest", "moved_mean"):
            getattr(self, f"last_{name}").copy_(getattr(self, name))
        for name in (*_OF_THE_TASK, *_COUNTS):
            getattr(self, name).zero_()

    def _spread_out(self, importance: Tensor) -> Tensor:
        if self.spread == 0.0:
            return importance
        padded = torch.nn.functional.pad(importance, (1, 1))
        neighbour = torch.maximum(padded[:-2], padded[2:])
        return torch.maximum(importance, self.spread * neighbour)
