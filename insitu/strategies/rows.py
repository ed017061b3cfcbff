"""Rows of a batch as one plain mapping, which can be cut into parts and mapped over by vmap."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from insitu.batch import Batch
from insitu.objectives.base import Objective

_SEEN, _ASKED, _PROVENANCE = "seen/", "asked/", "provenance"


def rows_of(objective: Objective, batch: Batch, targets: Batch | None = None) -> dict[str, Tensor]:
    """The fields that the objective reads, with their provenance.

    Args:
        batch: what the model sees.
        targets: what it is asked for, where that is another batch; input and target may be one
            field, so both are kept.

    Example:
        >>> import torch
        >>> from insitu.objectives.reconstruct import Reconstruct
        >>> from insitu.schema import Schema
        >>> objective = Reconstruct(Schema.of({"x": ("float32", (1,))}))
        >>> data, drawn = Batch.of({"x": torch.zeros(2, 1)}), Batch.of({"x": torch.ones(2, 1)})
        >>> rows = rows_of(objective, data, drawn)
        >>> seen(rows).fields["x"].tolist(), asked(rows).fields["x"].tolist()
        ([[0.0], [0.0]], [[1.0], [1.0]])
    """
    targets = batch if targets is None else targets
    return {
        **{_SEEN + name: batch.fields[name] for name in objective.fields},
        **{_ASKED + name: targets.fields[name] for name in objective.fields},
        _PROVENANCE: batch.provenance,
    }


def seen(rows: Mapping[str, Tensor]) -> Batch:
    """What the model sees."""
    return _batch(rows, _SEEN)


def asked(rows: Mapping[str, Tensor]) -> Batch:
    """What it is asked for."""
    return _batch(rows, _ASKED)


def _batch(rows: Mapping[str, Tensor], prefix: str) -> Batch:
    fields = {n.removeprefix(prefix): t for n, t in rows.items() if n.startswith(prefix)}
    provenance = rows[_PROVENANCE]
    return Batch(fields, provenance, len(provenance))
