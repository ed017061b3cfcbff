"""Which device a model is on, and batches on their way there."""

from __future__ import annotations

import torch
from torch import nn

from insitu.batch import Batch
from insitu.errors import OperatorError


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its fields on the device; copies from pinned memory overlap with the host."""
    if all(tensor.device == device for tensor in batch.fields.values()):
        return batch
    return batch.with_fields(
        {name: tensor.to(device, non_blocking=True) for name, tensor in batch.fields.items()}
    )


def device_of(module: nn.Module, device: torch.device | str | None) -> torch.device:
    """The device of the model's parameters, which a wish for another does not change."""
    parameter = next((p for p in module.parameters() if p.requires_grad), None)
    if parameter is None:
        raise OperatorError("the model has no trainable parameter", allowed="1 or more")
    if device is not None and torch.device(device).type != parameter.device.type:
        raise OperatorError(
            f"the trainer is to run on {device}, but the model is on {parameter.device}",
            remedy="move the model before the optimizer is made",
        )
    return parameter.device
