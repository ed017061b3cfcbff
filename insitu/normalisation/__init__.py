"""Normalisation: real-valued fields to mean 0 and standard deviation 1, as the stream goes on."""

from insitu.normalisation.normaliser import Normaliser
from insitu.normalisation.statistics import Axes, RunningStatistics, default_axes
from insitu.normalisation.unit_range import to_unit_range

__all__ = ["Axes", "Normaliser", "RunningStatistics", "default_axes", "to_unit_range"]
