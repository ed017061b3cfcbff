"""The diagonal of the empirical Fisher information, exact or by the mean of batches.

For samples n = 1..N with losses l_n at weights w,

    exact:       F = 1/N sum_n (d l_n / d w)^2                   one gradient per sample
    batch_mean:  F = 1/B sum_b (d mean_{n in b} l_n / d w)^2     one gradient per batch of samples

*Empirical* (Kunstner, Hennig and Balles, "Limitations of the empirical Fisher approximation",
2019): the gradient is that of the objective's own loss at the observed target, not at one drawn
from the model. For `classify` that is the log likelihood of the label; for the distances it is a
Gaussian log likelihood up to a constant factor. Penalties of strategies are no part of it.

`batch_mean` is what many implementations do: gradients of opposite sign cancel before the square,
so it comes out up to a batch's size too small. It is there to compare with them.

The model is in evaluation mode: no dropout, running statistics of its layers fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from insitu.batch import Batch
from insitu.evaluation import evaluation_mode
from insitu.objectives.base import Objective

FisherEstimate = Literal["exact", "batch_mean"]

_PREFIX = "model."


class _MeanLoss(nn.Module):
    """Fields of some rows -> their mean loss, as a module, so that its weights can be swapped."""

    def __init__(self, model: nn.Module, objective: Objective, provenance: Tensor) -> None:
        super().__init__()
        self.model = model
        self._objective = objective
        self._provenance = provenance

    def forward(self, fields: Mapping[str, Tensor]) -> Tensor:
        rows = len(next(iter(fields.values())))
        batch = Batch(fields, self._provenance[:rows], rows)
        return self._objective.losses(self._objective.predict(self.model, batch), batch).mean()


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, detached: views of the weights."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def fisher_diagonal(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    estimate: FisherEstimate = "exact",
    batch_rows: int = 32,
    workspace_bytes: int = 256 * 2**20,
) -> dict[str, Tensor]:
    """F by the name of the parameter, each of the shape and dtype of its parameter.

    Args:
        model: the plain module (not a compiled wrapper); left in the mode it was in.
        batch: normalised rows, 1 or more, on the model's device.
        batch_rows: rows of one gradient, for `batch_mean`.
        workspace_bytes: what the gradients of a chunk of samples may take at once, for `exact`;
            the chunk is at least one sample.

    Example:
        With l = (w x - y)^2 the gradient is 2 (w x - y) x, here 2 and -4.

        >>> import torch
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
    fields = {name: batch.fields[name] for name in objective.fields}
    loss = _MeanLoss(model, objective, batch.provenance)
    weights = trainable(model)
    constants = {
        _PREFIX + name: tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if name not in weights
    }

    def mean_loss(weights: Mapping[str, Tensor], fields: Mapping[str, Tensor]) -> Tensor:
        named = {_PREFIX + name: tensor for name, tensor in weights.items()}
        result: Tensor = functional_call(loss, {**named, **constants}, (fields,))
        return result

    with evaluation_mode(model):
        if estimate == "batch_mean":
            return _mean_of_squares(
                _gradients_of_batches(grad(mean_loss), weights, fields, batch_rows)
            )
        gradient_bytes = sum(w.numel() * w.element_size() for w in weights.values())
        chunk_rows = max(1, workspace_bytes // max(gradient_bytes, 1))
        return _mean_of_squares(_gradients_of_samples(grad(mean_loss), weights, fields, chunk_rows))


Gradient = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]


def _gradients_of_samples(
    gradient: Gradient, weights: dict[str, Tensor], fields: dict[str, Tensor], chunk_rows: int
) -> Iterator[dict[str, Tensor]]:
    """By chunks of samples: name -> (rows, *shape) gradients, one a sample."""
    per_sample = vmap(gradient, in_dims=(None, 0), randomness="different")
    # a sample becomes a batch of one row, so that objective and model see what they always see
    rows_of_one = {name: tensor.unsqueeze(1) for name, tensor in fields.items()}
    for chunk in _chunks(rows_of_one, chunk_rows):
        yield per_sample(weights, chunk)


def _gradients_of_batches(
    gradient: Gradient, weights: dict[str, Tensor], fields: dict[str, Tensor], batch_rows: int
) -> Iterator[dict[str, Tensor]]:
    """By batches: name -> (1, *shape), the gradient of the batch's mean loss."""
    for chunk in _chunks(fields, batch_rows):
        yield {name: g.unsqueeze(0) for name, g in gradient(weights, chunk).items()}


def _chunks(fields: dict[str, Tensor], rows: int) -> Iterator[dict[str, Tensor]]:
    count = len(next(iter(fields.values())))
    for start in range(0, count, rows):
        yield {name: tensor[start : start + rows] for name, tensor in fields.items()}


def _mean_of_squares(gradients: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    count = 0
    for chunk in gradients:
        for name, gradient in chunk.items():
            squares = gradient.square().sum(dim=0)
            sums[name] = squares if name not in sums else sums[name] + squares
        count += len(next(iter(chunk.values())))
    assert count, "a Fisher information needs a sample"
    return {name: total / count for name, total in sums.items()}
