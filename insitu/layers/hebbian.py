"""What all Hebbian layers share: a direction, found in the forward pass and followed later."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.layers.initial_weights import InitialWeights, fill
from insitu.layers.learning_rates import LearningRates
from insitu.layers.moments import only
from insitu.layers.rules.base import Rule


class HebbianLayer(nn.Module, ABC):
    """Weights that learn from what passes through: u = <w, patch>, and a direction beside it.

    With y from the rule, in the forward pass of a layer that is in training mode, `plastic` and
    `recording`, and in `apply_update` (called by `HebbianUpdate.step`):

        G   = sum of y_j patch               the weight gradient of the layer, and nothing else
        D   = G - <w, G> w                   as sum of y u = <w, G>
        w  += rate gain D / max |D|
        rate = learning_rates(||w||, updates)

    The weights never move in the forward pass. A second recording forward pass before the update
    replaces the first one's direction. In training mode no autograd graph is built, and none goes
    through the layer; in evaluation mode it is a plain layer, differentiable by its input.

    Rows that are not real (`mask`: padding to a size that never changes) teach nothing, whatever
    they hold; kernels then move as by the others alone, up to the order of the sums.

    A batch that is not finite, or that overflows, moves nothing; neither do zeros.

    State: `weight`, a parameter that wants no gradient; `norms` and `learning_rates_in_force`, a
    number a kernel; `updates`, a count. What was recorded and not yet applied is no state.

    Deviations: the division by max |D| is left to the update, where it is one factor a kernel.

    Args:
        shape: of the weights, (kernels, *fan_in).
        rule: the post-synaptic term.
        learning_rates: how fast each kernel moves.
        initial_weights, radius: see `insitu.layers.initial_weights`; the radius, unless given, is
            the rule's.
        activations: in what precision rows and responses are, such as `torch.bfloat16`: the two
            products, the competition and what the layer gives. Directions, weights and norms keep
            the precision of the weights. None: that of autocast where it is on, else the weights'.
        generator: draws the weights; without it torch's global generator.
    """

    weight: nn.Parameter
    norms: Tensor
    learning_rates_in_force: Tensor
    updates: Tensor
    gain: Tensor | None
    direction: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        rule: Rule,
        learning_rates: LearningRates,
        *,
        initial_weights: InitialWeights = "normal",
        radius: float | None = None,
        activations: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        radius = rule.radius if radius is None else radius
        if not radius > 0.0:
            raise OperatorError(f"the radius of first weights is {radius}", allowed="above 0")
        rule.check_kernels(shape[0])
        self.rule, self.learning_rates, self.activations = rule, learning_rates, activations
        #: whether the layer learns at all
        self.plastic = True
        #: whether the next forward pass in training mode is one to learn from
        self.recording = True
        #: (rows,) labels of the next forward pass, for a rule that needs them
        self.labels: Tensor | None = None
        #: (rows,) bool, which rows of the next passes in training mode are real; None: all
        self.mask: Tensor | None = None
        weight = torch.empty(shape)
        fill(weight, initial_weights, radius, generator)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("norms", torch.empty(shape[0]))
        self.register_buffer("learning_rates_in_force", torch.empty(shape[0]))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # (kernels,) factors on the update, for neuromodulation; None is 1
        self.register_buffer("gain", None, persistent=False)
        self.register_buffer("direction", torch.zeros(shape), persistent=False)
        # what `direction` is to be multiplied by; 0 where there is nothing to follow
        self.register_buffer("scale", torch.zeros(()), persistent=False)
        self.refresh()

    @abstractmethod
    def _prepared(self, rows: Tensor) -> Tensor:
        """The input checked and padded."""

    @abstractmethod
    def _potentials(self, prepared: Tensor) -> Tensor:
        """u: (rows, kernels, *places)."""

    @abstractmethod
    def _find_direction(self, activities: Tensor, prepared: Tensor, potentials: Tensor) -> None:
        """Write G - decay w into `direction`, where G = sum over rows, places of y patch."""

    def forward(self, rows: Tensor, labels: Tensor | None = None) -> Tensor:
        """u of every kernel at every place; records a direction where the layer may learn.

        Args:
            rows: (rows, channels, *places).
            labels: (rows,) integers for a rule that needs them; default: `self.labels`.
        """
        kind = rows.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return self._passed(rows.to(self.activations or self.weight.dtype), labels)
        rows = rows.to(self.activations or torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):  # which would take some operators back to float32
            return self._passed(rows, labels)

    def _passed(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        if not self.training:
            return self._potentials(self._prepared(rows))
        with torch.no_grad():
            prepared = self._prepared(rows if self.mask is None else only(rows, self.mask))
            potentials = self._potentials(prepared)
            if self.plastic and self.recording and rows.shape[0]:
                self._record(prepared, potentials, self._checked(labels, rows.shape[0]))
        return potentials

    def _checked(self, labels: Tensor | None, rows: int) -> Tensor | None:
        if not self.rule.needs_labels:
            return None
        labels = self.labels if labels is None else labels
        if labels is None or labels.shape != (rows,) or labels.is_floating_point():
            found = "none" if labels is None else f"{labels.dtype} of {list(labels.shape)}"
            raise OperatorError(
                f"Hebbian rule {type(self.rule).__name__} needs labels, and has {found}",
                allowed=f"one integer a row, ({rows},)",
                remedy="hand them in by layer(rows, labels) or update.recording(labels)",
            )
        return labels

    def _record(self, prepared: Tensor, potentials: Tensor, labels: Tensor | None) -> None:
        activities = self.rule.activities(potentials, labels)
        if self.mask is not None and self.rule.decay == "activity":
            # elsewhere patches of zeros, which have potentials of zero, are enough
            activities = only(activities, self.mask)
        self._find_direction(activities, prepared, potentials)
        if self.direction.is_cpu and not torch.compiler.is_compiling():
            self._look()
            return
        peak = torch.maximum(self.direction.amax(), -self.direction.amin())
        # 0 where the peak is 0, infinite or NaN
        self.scale.copy_(torch.where(peak > 0.0, (peak + 1e-30).reciprocal_(), 0.0))
        # else 0 times NaN would enter the weights
        self.direction.copy_(torch.where(self.scale > 0.0, self.direction, 0.0))

    def _look(self) -> None:
        """On a CPU looking at a number costs nothing, and a pass over large weights does."""
        # both are NaN where anything is
        peak = max(float(self.direction.amax()), -float(self.direction.amin()))
        if 0.0 < peak < math.inf:
            self.scale.fill_(1.0 / (peak + 1e-30))
        else:
            self.scale.zero_()
            self.direction.zero_()

    def _decay(self, activities: Tensor, potentials: Tensor) -> Tensor:
        """(kernels, 1, ...) what the weights are pulled back by, from the activities."""
        pulled = activities if self.rule.decay == "activity" else activities * potentials
        if self.rule.decay == "magnitude":
            pulled.abs_()
        over = (0, *range(2, pulled.dim()))
        return pulled.sum(dim=over, dtype=self.weight.dtype).view(self._per_kernel)

    @property
    def _per_kernel(self) -> tuple[int, ...]:
        return (-1, *(1,) * (self.weight.dim() - 1))

    @property
    def recorded_direction(self) -> Tensor:
        """D / max |D| of the last recording forward pass, a copy; zeros where there is none."""
        return self.direction * self.scale

    def apply_update(self) -> None:
        """Follow the recorded direction, once; without one nothing changes."""
        with torch.no_grad():
            rates = self.learning_rates_in_force * self.scale
            if self.gain is not None:
                rates *= self.gain
            self.weight.addcmul_(self.direction, rates.view(self._per_kernel))
            self.updates += self.scale > 0.0
            self.scale.zero_()
            self.refresh()

    def discard(self) -> None:
        """Forget the recorded direction."""
        self.scale.zero_()

    def refresh(self) -> None:
        """Norms and learning rates from the weights; whoever changes weights by hand calls it."""
        with torch.no_grad():
            fan_in = tuple(range(1, self.weight.dim()))
            torch.linalg.vector_norm(self.weight, dim=fan_in, out=self.norms)
            self.learning_rates_in_force.copy_(self.learning_rates(self.norms, self.updates))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.refresh()  # a float32 rate is no float64 rate
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *others: Any
    ) -> None:
        self._check_state(state_dict.get(prefix + "weight"), prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)
        self.discard()
        self.refresh()

    def _check_state(self, weight: Tensor | None, prefix: str) -> None:
        if weight is None:  # missing: torch says so itself
            return
        if weight.shape != self.weight.shape:
            raise OperatorError(
                f"the state of Hebbian layer {prefix.rstrip('.') or '(the module itself)'!r} has "
                f"weights of {list(weight.shape)}",
                allowed=f"{list(self.weight.shape)}, as the layer's own",
                consequence="nothing of this layer is loaded",
                remedy="build the network with the widths that the state was saved with",
            )
        if not bool(torch.isfinite(weight).all()):
            raise OperatorError(
                f"the state of Hebbian layer {prefix.rstrip('.') or '(the module itself)'!r} has "
                "weights that are not finite",
                allowed="finite numbers",
                consequence="nothing of this layer is loaded",
                remedy="load an earlier state",
            )
