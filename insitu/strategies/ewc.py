"""Elastic weight consolidation: one penalty for every task that ended.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (2017), eq. 3. With the
weights a_t that ended task t and the Fisher information F_t there,

    penalty = strength / 2 * sum_t sum_i F_ti (w_i - a_ti)^2     adjust_gradients, or adjust_weights
    at the end of task t:   keep F_t and a_t <- w                end_task

A sum of quadratics is one quadratic: F = sum_t F_t, a = sum_t F_t a_t / F and a constant have the
same values and gradients. So memory and time do not grow with the tasks, and nothing is lost
(Huszar, "Note on the quadratic penalties in elastic weight consolidation", 2018, has the same sum).
Which gradient feeds F_t is said in `insitu.strategies.fisher`, how the pull is applied in
`insitu.strategies.anchored`.

Deviations: none in the penalty, which by default is applied as a proximal step (`apply: gradient`
is the paper's, and diverges where learning rate times strength is large). F_t is taken over a
uniform sample of the fresh rows of the task, normalised as the batches are at that moment. A task
that ends twice counts twice. Tasks may run side by side: each has samples of its own and is
consolidated when it ends.

Costs: one operation over all weights a step (two under `gradient`), which is 15 to 20 % of a step
of a small dense network (784-400-400-10, 64 rows, two threads) and less the more rows a batch has;
at the end of a task about one training pass over `fisher_samples` rows, where the model has plain
layers only.

Keeps: twice the weights (importance and anchor; once more under `proximal`) and `fisher_samples`
rows of every running task. Constant over tasks.

Use it when: former samples may not be kept, tasks are few and none of them may fade. The pull only
grows, so after many tasks little is learned; then take online EWC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from insitu.criterion import Criterion
from insitu.strategies.anchored import Apply, Strength
from insitu.strategies.online_ewc import Fisher, OnlineEWC
from insitu.strategies.quadratics import add_quadratic
from insitu.strategies.sampled_importance import EstimateBatchSamples, Samples, WorkspaceBytes


class EWC(OnlineEWC):
    """Pulls weights back to where they ended each former task, by their importance to it.

    Args:
        criterion: whose loss feeds the Fisher information.
        optimizer: for its learning rates.
        generator: draws the samples that are kept, and targets, on the CPU.
    """

    name = "ewc"

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        *,
        strength: Strength = 100.0,
        apply: Apply = "proximal",
        fisher: Fisher = "exact",
        fisher_samples: Samples = 256,
        fisher_batch_samples: EstimateBatchSamples = 32,
        workspace_bytes: WorkspaceBytes = 256 * 2**20,
    ) -> None:
        super().__init__(
            criterion,
            optimizer,
            generator,
            strength=strength,
            apply=apply,
            fisher=fisher,
            fisher_samples=fisher_samples,
            fisher_batch_samples=fisher_batch_samples,
            workspace_bytes=workspace_bytes,
        )
        #: what the sum of all penalties has beside the one quadratic, at strength 2
        self._constant = torch.zeros((), device=criterion.parameters[0].device)

    def _penalty(self, ways: Sequence[Tensor]) -> Tensor:
        return super()._penalty(ways) + 0.5 * self._strength * self._constant

    def _add_task(self, latest: list[Tensor]) -> None:
        importance, anchor = self._importance, self._anchor
        weights = self._weights_now()
        if importance:
            self._constant += add_quadratic(importance, anchor, latest, weights)
        else:
            importance, anchor = latest, weights
        self.consolidate(importance, anchor)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "constant": self._constant}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._constant = state["constant"].to(self._constant, copy=True)


COMPONENT = EWC
