"""Divergence of the winners: other kernels of a Hebbian layer answer to what comes in.

For every fresh row the share of places that each kernel of one layer wins; phi is its square root,
so that distances are those of Hellinger and every row has length 1. The mean of the newest steps
against those before, on the scale of its scatter, see `insitu.detection.window_divergence`.

The winners are those of the step's own forward pass: nothing is computed twice. Kernels that still
learn change who wins, slowly, and blocks of the reference that differ from each other for that
reason raise the scale by which a change is judged.

Deviations: the histogram of winners as a sign of a new task is common in competitive learning; its
test is ours. Of several updates on a batch the last one's winners are taken.

Costs: one comparison over the potentials of the layer a step; rows times kernels numbers go to
the host.

Use it when: a network has Hebbian layers and tasks bring other inputs, labelled or not. It sees
what the kernels tell apart, and nothing else.

Measured: on split digits, 5 tasks of 2 classes in batches of 10, a layer of 100 kernels that learns
all the time, 3 seeds: all 12 switches were found, within 6 to 14 steps, and nothing was told in
3 x 10,000 steps before them. With a threshold of 3 there were 4 false alarms in these: kernels
that go on learning change who wins.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.detection.late_reading import Values
from insitu.detection.window_divergence import (
    MostRows,
    ReferenceBlocks,
    Threshold,
    WindowDivergence,
    WindowSteps,
)
from insitu.errors import OperatorError
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.rules.competition import one_hot
from insitu.layers.watching import Watching
from insitu.strategies.base import Observation


class WinnerDivergence(WindowDivergence):
    """Compares who wins in a Hebbian layer with who won before.

    Args:
        model: has the layer.

    Raises:
        OperatorError: it has no Hebbian layer, or none of that name.
    """

    name = "winner_divergence"

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: Annotated[
            str | None, Field(description="name of the layer in the model; null: the first one")
        ] = None,
        threshold: Threshold = 5.0,
        window_steps: WindowSteps = 20,
        reference_blocks: ReferenceBlocks = 10,
        most_rows: MostRows = 64,
    ) -> None:
        watched = _layer_of(model, layer, self.name)
        self._most_rows = most_rows
        self._shares: Tensor | None = None
        self._watched = watched
        watched.register_forward_hook(Watching(self._watch))
        super().__init__(
            features=watched.weight.shape[0],
            squared_norm=1.0,
            window_steps=window_steps,
            least_blocks=min(4, reference_blocks),
            most_blocks=reference_blocks,
            threshold=threshold,
        )

    def _watch(self, potentials: Tensor) -> None:
        """Who wins in the rows of a training step; also of a layer that is frozen by now."""
        if self._watched.recording:
            potentials = potentials[: self._most_rows]
            won = one_hot(potentials)
            # nobody wins where potentials are not finite
            unknown = 0.0 * potentials.flatten(1).sum(dim=1, keepdim=True)
            self._shares = (won.flatten(2).mean(dim=2) if won.dim() > 2 else won) + unknown

    def measure(self, observation: Observation) -> Tensor:
        shares, self._shares = self._shares, None
        if shares is None:
            return torch.empty(0)
        return shares[: observation.batch.fresh_rows]

    def features_of(self, values: Values) -> Values:
        return np.sqrt(values)

    def restart(self) -> None:
        super().restart()
        self._shares = None


def _layer_of(model: nn.Module, wanted: str | None, detector: str) -> HebbianLayer:
    layers = {n: part for n, part in model.named_modules() if isinstance(part, HebbianLayer)}
    if not layers or (wanted is not None and wanted not in layers):
        raise OperatorError(
            f"detector {detector!r} is to watch Hebbian layer {wanted or '(the first)'!r}",
            allowed=", ".join(layers) or "a model with Hebbian layers, such as `hebbian`",
            consequence="the service does not start",
            remedy="choose another detector, or another model",
        )
    return next(iter(layers.values())) if wanted is None else layers[wanted]


COMPONENT = WinnerDivergence
