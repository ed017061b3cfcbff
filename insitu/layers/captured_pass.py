"""The pass that Hebbian layers learn from as a CUDA graph, in networks that do more than that."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.layers.capture import capture
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.update import HebbianUpdate, decisions, set_mask

Function = Callable[[Tensor], Tensor]


@runtime_checkable
class CapturesPasses(Protocol):
    """A module that can have its passes through Hebbian layers captured."""

    def capture_passes(self) -> None: ...


class CapturedPass:
    """Runs a function of rows as a CUDA graph, where Hebbian layers learn from it.

    Rows, mask and labels are copied to memory that never moves; what comes out is a copy, so it
    stays as it is while other passes run. Each shape of a batch takes a graph of its own, and the
    first `most_shapes` of them get one; where a block is frozen all are captured anew. Passes that
    nobody learns from (reference gradients, candidates for replay, evaluation) are run operator by
    operator, and so is everything in copies of the module, and on other devices.

    Not run on a GPU yet; see `insitu/docs/hebbian.md`.

    Args:
        module: all Hebbian layers and standardisations of the function are in it; nothing in it may
            draw random numbers, wait for the device, or be watched by hooks.
        most_shapes: how many graphs there are at a time.

    Raises:
        OperatorError: something in the module is watched, or keeps the standardisation of every
            task.

    Example:
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.rules.hard import Hard
        >>> layer = HebbianLinear(3, 4, Hard(), AdaptiveRates(0.05))
        >>> CapturedPass(layer)(layer, torch.rand(5, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(self, module: nn.Module, *, most_shapes: int = 4) -> None:
        self._module, self._most_shapes = module, most_shapes
        self._layers = [part for part in module.modules() if isinstance(part, HebbianLayer)]
        standardisations = [p for p in module.modules() if isinstance(p, BatchStandardisation)]
        self._parts: list[HebbianLayer | BatchStandardisation] = [*self._layers, *standardisations]
        self._needs_labels = any(layer.rule.needs_labels for layer in self._layers)
        self._passes: dict[Hashable, _Pass] = {}
        self._decided: Hashable = None

    def __call__(self, function: Function, rows: Tensor) -> Tensor:
        """function(rows), without a graph for autograd where it is captured."""
        if not self._learns(rows):
            return function(rows)
        decided = decisions(self._parts)
        if decided != self._decided:
            self._passes.clear()
            self._decided = decided
        mask = self._parts[0].mask
        labels = self._layers[0].labels if self._needs_labels else None
        key = tuple(map(_kind, (rows, mask, labels)))
        if key not in self._passes:
            if len(self._passes) >= self._most_shapes:
                return function(rows)
            check_unwatched(self._module)
            self._passes[key] = self._captured(function, rows, mask, labels)
        return self._passes[key](rows, mask, labels)

    def _learns(self, rows: Tensor) -> bool:
        return (
            self._most_shapes > 0
            and bool(self._layers)
            and any(part.recording for part in self._parts)
            and any(part.training for part in self._parts)
            and not rows.requires_grad
            and not torch.compiler.is_compiling()
        )

    def _captured(
        self, function: Function, rows: Tensor, mask: Tensor | None, labels: Tensor | None
    ) -> _Pass:
        made = _Pass(rows, mask, labels)

        def run() -> Tensor:
            with torch.no_grad(), self._shown(made.mask, made.labels):
                return function(made.rows)

        state = [*self._module.parameters(), *self._module.buffers()]
        made.run = capture(run, state, rows.device)
        return made

    @contextmanager
    def _shown(self, mask: Tensor | None, labels: Tensor | None) -> Iterator[None]:
        """Inside, the parts see mask and labels where they never move."""
        masks = [part.mask for part in self._parts]
        shown = [layer.labels for layer in self._layers]
        set_mask(self._parts, mask)
        if self._needs_labels:
            for layer in self._layers:
                layer.labels = labels
        try:
            yield
        finally:
            for part, before in zip(self._parts, masks, strict=True):
                part.mask = before
            for layer, seen in zip(self._layers, shown, strict=True):
                layer.labels = seen

    def __deepcopy__(self, memo: Any) -> CapturedPass:
        """A graph reads the memory that it was captured on, so a copy has none."""
        return CapturedPass(copy.deepcopy(self._module, memo), most_shapes=0)


class CapturedMove:
    """`HebbianUpdate.step` with what happens on the device as a CUDA graph.

    Args:
        update: of all layers that are to move.

    Example:
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.rules.hard import Hard
        >>> layer = HebbianLinear(3, 4, Hard(), AdaptiveRates(0.05))
        >>> move = CapturedMove(HebbianUpdate(layer))
        >>> _ = layer(torch.rand(5, 3))
        >>> move()
        >>> layer.updates
        tensor(1)
    """

    def __init__(self, update: HebbianUpdate) -> None:
        self._update = update
        self._move: Callable[[], None] | None = None
        self._decided: Hashable = None

    def __call__(self) -> None:
        decided = decisions(self._update.parts)
        if self._move is None or decided != self._decided:
            parts = self._update.parts
            state = [t for part in parts for t in (*part.parameters(), *part.buffers())]
            self._move = capture(self._update.move, state, state[0].device)
            self._decided = decided
        self._move()
        self._update.tell_followers()


class _Pass:
    """A captured pass over rows of one shape, and the memory that it reads."""

    run: Callable[[], Tensor]

    def __init__(self, *given: Tensor | None) -> None:
        kept = [None if each is None else torch.empty_like(each).copy_(each) for each in given]
        rows, self.mask, self.labels = kept
        assert rows is not None
        self.rows = rows

    def __call__(self, *given: Tensor | None) -> Tensor:
        for kept, each in zip((self.rows, self.mask, self.labels), given, strict=True):
            if kept is not None and each is not None:
                kept.copy_(each, non_blocking=True)
        return self.run().clone()


def check_unwatched(module: nn.Module) -> None:
    """Refuse hooks: Python in them would be run when a pass is captured, and never again.

    Raises:
        OperatorError: something in the module has a forward hook.
    """
    for name, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks:
            raise OperatorError(
                f"a captured pass through {name or 'a module'!r}, which others watch",
                allowed="no kernel_plasticity and no winner_divergence beside CUDA graphs",
                remedy="leave them out, or set trainer.cuda_graphs to false",
            )


def _kind(given: Tensor | None) -> Hashable:
    return None if given is None else (given.shape, given.stride(), given.dtype, given.device)
