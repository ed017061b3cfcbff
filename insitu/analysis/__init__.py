"""Looking at learning beside it: a good learning rate, costs of a model, kernels of its layers."""

from insitu.analysis.cost import LayerCost, ModelCost, model_cost
from insitu.analysis.kernels import Kernel, KernelTable, kernel_tables, trainer_kernels
from insitu.analysis.learning_rate_range import LearningRateRange, learning_rate_range

__all__ = [
    "Kernel",
    "KernelTable",
    "LayerCost",
    "LearningRateRange",
    "ModelCost",
    "kernel_tables",
    "learning_rate_range",
    "model_cost",
    "trainer_kernels",
]
