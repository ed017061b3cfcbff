"""How well the model does: on the stream before learning it, and on held-out rows of every task."""

from insitu.evaluation.matrix import EvaluationMatrix
from insitu.evaluation.measuring import Evaluation, Evaluator, evaluation_mode
from insitu.evaluation.prequential import Prequential
from insitu.evaluation.probe_files import ProbeFile, read_probe_file
from insitu.evaluation.probes import ProbeSets, divide

__all__ = [
    "Evaluation",
    "EvaluationMatrix",
    "Evaluator",
    "Prequential",
    "ProbeFile",
    "ProbeSets",
    "divide",
    "evaluation_mode",
    "read_probe_file",
]
