"""The diagonal of the Fisher information: exact, with drawn targets, or by the mean of batches.

For samples n = 1..N with losses l_n(y) at weights w,

    exact:       F = 1/N sum_n (d l_n(y_n) / d w)^2              y_n as it came
    drawn:       F = 1/N sum_n (d l_n(y) / d w)^2                y drawn from the model
    batch_mean:  F = 1/B sum_b (d mean_{n in b} l_n / d w)^2     one gradient per batch of samples

`exact` is the *empirical* Fisher (Kunstner, Hennig and Balles, "Limitations of the empirical Fisher
approximation", 2019): the gradient of the objective's own loss at the observed target. It vanishes
where the model fits its targets. `drawn` is an unbiased estimate of the Fisher information proper
(Martens, "New insights and perspectives on the natural gradient method", 2020, section 5); it needs
an objective whose loss is a log likelihood. Losses that are distances are Gaussian or Laplacian log
likelihoods up to a constant factor. Penalties of strategies are no part of any of them.

`batch_mean` is what many implementations do: gradients of opposite sign cancel before the square,
so it comes out up to a batch's size too small. It is there to compare with them.

The model is in evaluation mode: no dropout, running statistics of its layers fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.errors import InternalError
from insitu.evaluation import evaluation_mode
from insitu.objectives.base import Objective
from insitu.strategies.base import refuse
from insitu.strategies.per_sample import batch_means_of_powers, sums_of_powers
from insitu.strategies.rows import asked, rows_of, seen

FisherEstimate = Literal["exact", "drawn", "batch_mean"]


def fisher_diagonal(
    module: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    estimate: FisherEstimate = "exact",
    batch_rows: int = 32,
    workspace_bytes: int = 256 * 2**20,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """F by the name of the parameter, each of the shape and dtype of its parameter.

    Args:
        module: the plain module (not a compiled wrapper); left in the mode it was in.
        batch: normalised rows, 1 or more, on the module's device.
        batch_rows: rows of one gradient, for `batch_mean`.
        workspace_bytes: what the gradients of single samples may take at once.
        generator: draws the targets, for `drawn`; on the CPU.

    Example:
        With l = (w x - y)^2 the gradient is 2 (w x - y) x, here 2 and -4.

        >>> from insitu.objectives.regress import Regress
        >>> from insitu.schema import Schema
        >>> schema = Schema.of({"x": ("float32", (1,)), "y": ("float32", (1,))})
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> x = torch.ones(2, 1)
        >>> batch = Batch.of({"x": x, "y": torch.tensor([[0.0], [3.0]])})
        >>> fisher_diagonal(model, Regress(schema), batch)["weight"]
        tensor([[10.]])
        >>> fisher_diagonal(model, Regress(schema), batch, estimate="batch_mean")["weight"]
        tensor([[1.]])
    """
    targets = batch
    if estimate == "drawn":
        targets = _drawn(module, objective, batch, generator)
    rows = rows_of(objective, batch, targets)
    values = LossOfRows(objective)
    if estimate == "batch_mean":
        return batch_means_of_powers(module, values, rows, power=2, batch_rows=batch_rows)
    sums = sums_of_powers(module, values, rows, power=2, workspace_bytes=workspace_bytes)
    return {name: total.div_(batch.rows) for name, total in sums.items()}


def check_estimate(name: str, objective: Objective, estimate: str) -> None:
    """Refuse an estimate of the Fisher information that the objective does not allow."""
    if estimate != "batch_mean" and not objective.row_by_row:
        why = "the loss of a row depends on the other rows, so it has no gradient per sample"
        refuse(name, objective, why, "fisher: batch_mean, or an objective with a loss per row")
    if estimate == "drawn" and not objective.is_likelihood:
        why = "its loss is no log likelihood, so no targets can be drawn from the model"
        refuse(name, objective, why, "fisher: exact or batch_mean")


class LossOfRows:
    """The objective's losses, of rows as `rows_of` makes them."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __call__(self, module: nn.Module, rows: Mapping[str, Tensor]) -> Tensor:
        outputs = self._objective.predict(module, seen(rows))
        return self._objective.losses(outputs, asked(rows))


@torch.no_grad()
def _drawn(
    module: nn.Module, objective: Objective, batch: Batch, generator: torch.Generator | None
) -> Batch:
    if generator is None:
        raise InternalError("no generator to draw targets with", allowed="one, for drawn")
    with evaluation_mode(module):
        return objective.drawn_targets(objective.predict(module, batch), batch, generator)
