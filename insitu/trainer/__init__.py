"""The trainer: one object that owns model, optimizer and strategies, and takes batches."""

from insitu.trainer.non_finite import NonFinite, NonFiniteLoss
from insitu.trainer.trainer import Trainer

__all__ = ["NonFinite", "NonFiniteLoss", "Trainer"]
