"""Optimizers and learning-rate schedules of torch by name, with state that is plain data."""

from insitu.optimization.optimizers import build_optimizer
from insitu.optimization.schedules import Schedule, build_schedule
from insitu.optimization.state import load_optimizer_state, optimizer_state

__all__ = [
    "Schedule",
    "build_optimizer",
    "build_schedule",
    "load_optimizer_state",
    "optimizer_state",
]
