"""What is wrong with a batch that the forward pass could not take, in words."""

from __future__ import annotations

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.objectives.base import Objective


def explained(error: Exception, objective: Objective, batch: Batch) -> Exception:
    """An error that names the field and the value; the error itself, where neither is at fault.

    The service checks rows at the door, so this is for those who call the trainer themselves.

    Example:
        >>> from insitu.objectives.classify import Classify
        >>> import torch
        >>> from insitu.schema import Schema
        >>> schema = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})
        >>> batch = Batch.of({"x": torch.zeros(1, 2)})
        >>> print(explained(KeyError("y"), Classify(schema, classes=2), batch).message)
        the batch has no field 'y'
    """
    missing = [name for name in objective.fields if name not in batch.fields]
    if missing:
        return OperatorError(
            f"the batch has no field {', '.join(map(repr, missing))}",
            allowed=f"the fields of the objective: {', '.join(objective.fields)}",
            consequence="the step is refused; nothing has changed",
        )
    for name, (lowest, highest) in objective.label_range.items():
        labels = batch.fields[name]
        least, most = int(labels.min()), int(labels.max())
        if least < lowest or most > highest:
            return OperatorError(
                f"field {name!r} of the batch has labels from {least} to {most}",
                allowed=f"{lowest} to {highest}",
                consequence="the step is refused; nothing has changed",
            )
    return error
