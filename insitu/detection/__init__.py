"""Detectors: parts that find where one task of a stream ends and the next begins, unasked."""

from insitu.detection.base import Detector
from insitu.detection.watch import DriftWatch

__all__ = ["Detector", "DriftWatch"]
