"""Evaluation, prequential figures and the analysis of the stream, each without its essence."""

from __future__ import annotations

from typing import Any

from torch import nn

from insitu.evaluation.matrix import EvaluationMatrix
from insitu.evaluation.prequential import Prequential
from insitu.evaluation.task_record import TaskRecord
from insitu.optimization import Schedule
from mutations.base import Mutation, constantly

_MATRIX = "insitu.evaluation.matrix:EvaluationMatrix"
_MATRIX_TESTS = "tests/test_evaluation_matrix.py"
_PREQUENTIAL_TESTS = "tests/test_prequential.py"


def _measured_without_worst(record: TaskRecord, result: float, sign: float) -> None:
    record.newest = result


def _compact_to_the_newest(matrix: EvaluationMatrix) -> None:
    del matrix._rows[: -matrix._most_rows]


def _count_skipped_too(prequential: Prequential, batch: Any, report: Any) -> None:
    counted = report.__class__(**{**vars(report), "skipped": False})
    _count(prequential, batch, counted)


_count = Prequential.count


def _cool_down_at_once(schedule: Schedule, steps: int) -> None:
    schedule.cool_downs += 1


def _one_direction(module: nn.RNNBase, inputs: Any) -> int:
    return 2 * inputs.numel() // inputs.shape[-1] * module.hidden_size * module.input_size


MUTATIONS = {
    "evaluation matrix: errors are taken for accuracies": Mutation(
        f"{_MATRIX}._sign", 1.0, _MATRIX_TESTS
    ),
    "evaluation matrix: no worst result and no drop is kept": Mutation(
        "insitu.evaluation.task_record:TaskRecord.measured",
        _measured_without_worst,
        _MATRIX_TESTS,
    ),
    "evaluation matrix: the untrained model is not recorded": Mutation(
        f"{_MATRIX}.record_untrained", constantly(None), _MATRIX_TESTS
    ),
    "evaluation matrix: the first row goes when there are many": Mutation(
        f"{_MATRIX}._compact", _compact_to_the_newest, _MATRIX_TESTS
    ),
    "evaluation matrix: rows never go": Mutation(
        f"{_MATRIX}._compact", constantly(None), _MATRIX_TESTS
    ),
    "prequential: skipped steps count": Mutation(
        "insitu.evaluation.prequential:Prequential.count", _count_skipped_too, _PREQUENTIAL_TESTS
    ),
    "prequential: what is added up is dropped": Mutation(
        "insitu.evaluation.prequential:Prequential.fold",
        lambda self: setattr(self, "_state", (self._state[0], [], [])),
        _PREQUENTIAL_TESTS,
    ),
    "probe files: values are not checked": Mutation(
        "insitu.evaluation.probe_files:_check", constantly(None), "tests/test_probe_files.py"
    ),
    "range test: the trainer is not restored": Mutation(
        "insitu.trainer:Trainer.load_state_dict",
        constantly(None),
        "tests/test_learning_rate_range.py",
    ),
    "range test: the state is not copied": Mutation(
        "insitu.analysis.learning_rate_range:_copied",
        lambda state: state,
        "tests/test_learning_rate_range.py",
    ),
    "schedule: a cool-down is over at once": Mutation(
        "insitu.optimization.schedules:Schedule.cool_down",
        _cool_down_at_once,
        "tests/test_cool_down.py",
    ),
    "schedule: one-cycle does not begin anew": Mutation(
        "insitu.optimization.schedules:_set", constantly(None), "tests/test_cool_down.py"
    ),
    "cost: recurrent layers by their inputs only": Mutation(
        "insitu.analysis.operations:recurrent_flops", _one_direction, "tests/test_cost.py"
    ),
}
