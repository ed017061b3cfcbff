"""Looking at learning before or beside it: a good learning rate, and what a model costs."""

from insitu.analysis.cost import LayerCost, ModelCost, model_cost
from insitu.analysis.learning_rate_range import LearningRateRange, learning_rate_range

__all__ = [
    "LayerCost",
    "LearningRateRange",
    "ModelCost",
    "learning_rate_range",
    "model_cost",
]
