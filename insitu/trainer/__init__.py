"""The trainer: one object that owns model, optimizer and strategies, and takes batches."""

from insitu.trainer.micro_batches import OutOfMemory, is_out_of_memory
from insitu.trainer.non_finite import NonFinite, NonFiniteLoss
from insitu.trainer.trainer import Trainer

__all__ = ["NonFinite", "NonFiniteLoss", "OutOfMemory", "Trainer", "is_out_of_memory"]
