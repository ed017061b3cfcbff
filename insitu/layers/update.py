"""The counterpart of an optimizer: moves all Hebbian layers of a module, or lets them be."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.standardisation import BatchStandardisation


@runtime_checkable
class FollowsUpdates(Protocol):
    """A module that wants to know when its layers have moved, such as to freeze some of them."""

    def after_update(self) -> None: ...


class HebbianUpdate:
    """Follows, or forgets, what the layers recorded in the forward pass.

    Each layer is one fused multiply-add over its weights and one pass for its norms; layers have
    different shapes, so there is nothing to gain from joining them. Nothing waits for the device.

    Args:
        module: all Hebbian layers in it, at any depth.
        record_always: whether every forward pass in training mode records. Where others than the
            one to learn from run too (reference gradients, candidates for replay), say False:
            then only those inside `recording()` do.

    Example:
        >>> import torch
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> net = HebbianLinear(3, 4, SoftHebb(), AdaptiveRates(0.05))
        >>> update = HebbianUpdate(net, record_always=False)
        >>> with update.recording():
        ...     features = net(torch.rand(8, 3))
        >>> _ = net(torch.rand(8, 3))  # records nothing
        >>> update.step()
    """

    def __init__(self, module: nn.Module, *, record_always: bool = True) -> None:
        self.layers = [part for part in module.modules() if isinstance(part, HebbianLayer)]
        self.standardisations = [
            part for part in module.modules() if isinstance(part, BatchStandardisation)
        ]
        #: both kinds
        self.parts: list[HebbianLayer | BatchStandardisation] = [
            *self.layers,
            *self.standardisations,
        ]
        self._followers = [part for part in module.modules() if isinstance(part, FollowsUpdates)]
        self._set_recording(record_always)

    def step(self) -> None:
        """Move the weights of every plastic layer along its recorded direction, once."""
        self.move()
        self.tell_followers()

    def move(self) -> None:
        """The part of `step` that happens on the device."""
        for layer in self.layers:
            if layer.plastic:
                layer.apply_update()
            else:
                layer.discard()
        for standardisation in self.standardisations:
            standardisation.apply_update()

    def tell_followers(self) -> None:
        """The part of `step` that happens on the host."""
        for follower in self._followers:
            follower.after_update()

    def discard(self) -> None:
        """Forget what was recorded: the step is skipped."""
        for part in self.parts:
            part.discard()

    @contextmanager
    def recording(self, labels: Tensor | None = None, mask: Tensor | None = None) -> Iterator[None]:
        """Inside, forward passes in training mode record; afterwards it is as it was before.

        Args:
            labels: (rows,) of the rows to come, for layers whose rule needs them.
            mask: (rows,) bool, which of them are real; the others, padding to a size that never
                changes, teach nothing and count for nothing, whatever they hold. None: all.
        """
        before = [part.recording for part in self.parts]
        self._set_recording(True)
        set_mask(self.parts, mask)
        for layer in self.layers:
            layer.labels = labels
        try:
            yield
        finally:
            for part, value in zip(self.parts, before, strict=True):
                part.recording = value
            set_mask(self.parts, None)
            for layer in self.layers:
                layer.labels = None

    def _set_recording(self, value: bool) -> None:
        for part in self.parts:
            part.recording = value


def set_mask(parts: Iterable[HebbianLayer | BatchStandardisation], mask: Tensor | None) -> None:
    """Tell parts which rows of the next passes in training mode are real; None: all."""
    for part in parts:
        part.mask = mask


def decisions(parts: Iterable[HebbianLayer | BatchStandardisation]) -> Hashable:
    """What Python decides of in a pass and a move; where it changes, a captured one is no good.

    Raises:
        OperatorError: the standardisation of every task is kept, in tables that grow.
    """
    return tuple(map(_decided, parts))


def _decided(part: HebbianLayer | BatchStandardisation) -> Hashable:
    if isinstance(part, HebbianLayer):
        return part.training, part.plastic, part.gain is None
    if part.of_tasks is not None:
        raise OperatorError(
            "a captured step of a network that keeps the standardisation of every task",
            allowed="shared or frozen standardisation",
            remedy="run the step without capture, or choose another standardisation",
        )
    return part.training, part.frozen
