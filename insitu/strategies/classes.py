"""Which classes appear among labels, for methods that work on logits of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from insitu.objectives.base import Objective


def logits_of(objective: Objective) -> int | None:
    """How many classes the outputs are one logit each of; None where they are something else."""
    shape = objective.predicted_shape
    has_labels = type(objective).labels is not Objective.labels
    if not (objective.is_likelihood and has_labels and len(shape) == 1):
        return None
    highest = [high for _, high in objective.label_range.values()]
    return shape[0] if shape[0] - 1 in highest else None


def appearing(labels: Tensor, classes: int) -> Tensor:
    """(classes,) bool: which classes are among the labels; -1 (no label) is none of them.

    Does not make a GPU wait.

    Example:
        >>> appearing(torch.tensor([2, -1, 2]), 4).tolist()
        [False, False, True, False]
    """
    marks = torch.zeros(classes + 1, dtype=torch.bool, device=labels.device)
    # labels of -1 go to a place of their own, which is cut off
    return marks.index_fill_(0, labels.remainder(classes + 1), True)[:classes]
