"""What was learned and what was forgotten: the matrix of results, and its figures.

After every task the model is measured on the probes of all tasks so far; that is one row of the
matrix a[i][j], the result on task j after task i was learned. With k the newest row, T its tasks
that were learned, and P those of T learned before k:

    average             mean over j in T of a[k][j]                           (Lopez-Paz 2017, ACC)
    learning average    mean over j in T of a[j][j]                           (Riemer 2019, LA)
    backward transfer   mean over j in P of a[k][j] - a[j][j]                 (Lopez-Paz 2017, BWT)
    forward transfer    mean over j in T of a[j-1][j] - b[j], b[j] being the result of the model
                        before any training; the first task has none          (Lopez-Paz 2017, FWT)
    forgetting          mean over j in P of max over i < k of a[i][j] - a[k][j]   (Chaudhry 2018)

and over all evaluations n, those between the ends of tasks too, a[n][j] being their results:

    average anytime     mean over n of the mean over the tasks begun by then of a[n][j]
                                                                              (Caccia 2022, AAA)
    average worst       mean over j in P of min over n after j was learned of a[n][j]
                                                                         (De Lange 2023, min-ACC)
    worst case          a[n][k] / |T| + (1 - 1 / |T|) average worst       (De Lange 2023, WC-ACC)
    largest drop        mean over j in P of max over n after j was learned of a[n-1][j] - a[n][j]
                        (De Lange 2023, windowed forgetting WF with a window of two evaluations)

for scores of which higher is better. For errors the maximum becomes a minimum and differences
change their sign: forgetting and drops above 0 are always a loss, transfers above 0 always a gain.

Sources: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017, eqs. 2-4.
Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018, section 3. Riemer et al.,
"Learning to Learn without Forgetting by Maximizing Transfer and Minimizing Interference", 2019.
Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual
Learning", 2022. De Lange et al., "Continual evaluation for lifelong learning: identifying the
stability gap", 2023.

Deviations: a task may be learned more than once; a[j][j] is then the row of its last end, and
"after it was learned" means after its first. De Lange evaluates after every step; here n runs over
the evaluations that were made. A task that was not measured where a figure needs it is left out of
the mean. Memory is bounded: what the figures need of each task is kept exactly, and of the rows
themselves, which are only to be looked at, ever fewer of the old ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from insitu.evaluation.task_record import TaskRecord, best_of


class EvaluationMatrix:
    """One figure by ended task (rows) and measured task (columns).

    Args:
        metric: name of the figure.
        higher_is_better: True for an accuracy, False for an error.
        most_rows: rows kept; when there are more, every second one of the older half goes.

    Example:
        >>> matrix = EvaluationMatrix("accuracy", higher_is_better=True)
        >>> matrix.record(0, {0: 0.9})
        >>> matrix.record(1, {0: 0.6, 1: 0.8})
        >>> matrix.right_after_learning(0), matrix.at_the_end(0), round(matrix.forgetting(), 3)
        (0.9, 0.6, 0.3)
    """

    def __init__(self, metric: str, *, higher_is_better: bool, most_rows: int = 128) -> None:
        self.metric = metric
        self.higher_is_better = higher_is_better
        self._most_rows = most_rows
        #: the task that ended before each row that is kept, in order
        self.ended: list[int] = []
        #: number of each row that is kept, among all that were recorded, from 0
        self.row_numbers: list[int] = []
        self._rows: list[dict[int, float]] = []
        self._records: dict[int, TaskRecord] = {}
        self._learned: list[int] = []
        self._begun: dict[int, None] = {}
        self._columns: dict[int, None] = {}
        self._last_ended: int | None = None
        self._recorded = 0
        self._anytime_sum, self._anytime_count = 0.0, 0

    # what was measured

    def record(self, ended_task: int, results: Mapping[int, float]) -> None:
        """Add a row: results by task, right after `ended_task` was learned."""
        newest = self._rows[-1] if self._rows else {}
        for task, result in newest.items():
            record = self._record(task)
            record.best = best_of(record.best, result, self._sign)
        own = self._record(ended_task)
        if own.ends == 0:
            own.before = newest.get(ended_task, math.nan)
            self._learned.append(ended_task)
        self.observe(results, (ended_task,))
        own.learned = results.get(ended_task, math.nan)
        own.ends += 1
        self._last_ended = ended_task
        self._columns.update(dict.fromkeys(results))
        self.ended.append(ended_task)
        self._rows.append(dict(results))
        self.row_numbers.append(self._recorded)
        self._recorded += 1
        self._compact()

    def observe(self, results: Mapping[int, float], begun: Iterable[int] = ()) -> None:
        """Count an evaluation that is no row: it was made while tasks were being learned.

        Args:
            begun: tasks of which some samples were trained; they stay begun.
        """
        self._begun.update(dict.fromkeys(begun))
        for task, result in results.items():
            self._record(task).measured(result, self._sign)
        average = _mean(result for task, result in results.items() if task in self._begun)
        if not math.isnan(average):
            self._anytime_sum += average
            self._anytime_count += 1

    def record_untrained(self, results: Mapping[int, float]) -> None:
        """Results by task of the model before any training, for the forward transfer."""
        for task, result in results.items():
            self._record(task).untrained = result

    # the matrix

    @property
    def tasks(self) -> list[int]:
        """The tasks that were measured, in the order of their first result: the columns."""
        return list(self._columns)

    @property
    def ends(self) -> dict[int, int]:
        """How often each learned task ended."""
        return {task: self._records[task].ends for task in self._learned}

    def learned(self) -> list[int]:
        """The tasks that ended, each once, in the order of their first end."""
        return list(self._learned)

    def table(self) -> list[list[float | None]]:
        """a[i][j] by row that is kept and by `tasks`; None where nothing was measured."""
        return [[row.get(task) for task in self._columns] for row in self._rows]

    # figures of a task

    def right_after_learning(self, task: int) -> float:
        """a[j][j]: the result on a task when it last ended (Riemer's R_j); NaN before."""
        return self._of(task).learned

    def at_the_end(self, task: int) -> float:
        """a[k][j]: the result on a task in the newest row; NaN where there is none."""
        return self._rows[-1].get(task, math.nan) if self._rows else math.nan

    def newest(self, task: int) -> float:
        """The result on a task in the newest evaluation, row or not; NaN where there is none."""
        return self._of(task).newest

    def forgetting_of(self, task: int) -> float:
        """By how much the newest row is worse than the best before; NaN with fewer than two."""
        return self._sign * (self._of(task).best - self.at_the_end(task))

    def forward_transfer_of(self, task: int) -> float:
        """By how much learning other tasks made the model better than an untrained one."""
        record = self._of(task)
        return self._sign * (record.before - record.untrained)

    def worst_of(self, task: int) -> float:
        """The worst result since the task was learned."""
        return self._of(task).worst

    def largest_drop_of(self, task: int) -> float:
        """The largest loss between two evaluations in succession since the task was learned."""
        return self._of(task).drop

    # figures over tasks

    def average(self) -> float:
        """Mean of the newest results on all learned tasks."""
        return _mean(map(self.at_the_end, self._learned))

    def learning_average(self) -> float:
        """Mean of the results on the learned tasks, each right after it was learned."""
        return _mean(map(self.right_after_learning, self._learned))

    def forgetting(self) -> float:
        """Mean over the tasks learned before the newest row; NaN when there is none."""
        return _mean(map(self.forgetting_of, self._learned_before()))

    def backward_transfer(self) -> float:
        """Mean gain since a task was learned, over the tasks learned before the newest row."""
        return _mean(
            self._sign * (self.at_the_end(task) - self.right_after_learning(task))
            for task in self._learned_before()
        )

    def forward_transfer(self) -> float:
        """Mean gain over the untrained model just before a task was learned."""
        return _mean(map(self.forward_transfer_of, self._learned))

    def average_anytime(self) -> float:
        """Mean over all evaluations of the mean over the tasks begun by then."""
        return self._anytime_sum / self._anytime_count if self._anytime_count else math.nan

    def average_worst(self) -> float:
        """Mean over the tasks learned before the newest of the worst result since."""
        return _mean(map(self.worst_of, self._learned_before()))

    def worst_case(self) -> float:
        """Trade-off of what was learned last and the worst of what was learned before."""
        if self._last_ended is None:
            return math.nan
        worst = [self.worst_of(task) for task in self._learned_before()]
        return _mean([self.newest(self._last_ended), *worst])

    def largest_drop(self) -> float:
        """Mean over the tasks learned before the newest of their largest drop since."""
        return _mean(map(self.largest_drop_of, self._learned_before()))

    def figures(self) -> dict[str, float]:
        """All figures over tasks, by the names in `FIGURES`; NaN where not yet defined."""
        return {name: make(self) for name, (make, _) in FIGURES.items()}

    # bookkeeping

    @property
    def _sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def _record(self, task: int) -> TaskRecord:
        return self._records.setdefault(task, TaskRecord())

    def _of(self, task: int) -> TaskRecord:
        return self._records.get(task, _NOTHING)

    def _learned_before(self) -> list[int]:
        return [task for task in self._learned if task != self._last_ended]

    def _compact(self) -> None:
        if len(self._rows) > self._most_rows:
            gone = slice(1, len(self._rows) // 2, 2)
            for rows in (self._rows, self.ended, self.row_numbers):
                del rows[gone]

    def state_dict(self) -> dict[str, Any]:
        rows = [{"tasks": list(row), "results": list(row.values())} for row in self._rows]
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "ended": list(self.ended),
            "row_numbers": list(self.row_numbers),
            "rows": rows,
            "tasks": [{"task": n, **record.state_dict()} for n, record in self._records.items()],
            "learned": list(self._learned),
            "begun": list(self._begun),
            "columns": list(self._columns),
            "last_ended": self._last_ended,
            "recorded": self._recorded,
            "anytime": [self._anytime_sum, self._anytime_count],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.metric = str(state["metric"])
        self.higher_is_better = bool(state["higher_is_better"])
        self.ended = [int(task) for task in state["ended"]]
        self.row_numbers = [int(number) for number in state["row_numbers"]]
        self._rows = [dict(zip(row["tasks"], row["results"], strict=True)) for row in state["rows"]]
        saved = [dict(entry) for entry in state["tasks"]]
        self._records = {int(entry.pop("task")): TaskRecord.of(entry) for entry in saved}
        self._learned = [int(task) for task in state["learned"]]
        self._begun = dict.fromkeys(int(task) for task in state["begun"])
        self._columns = dict.fromkeys(int(task) for task in state["columns"])
        last = state["last_ended"]
        self._last_ended = None if last is None else int(last)
        self._recorded = int(state["recorded"])
        self._anytime_sum, self._anytime_count = state["anytime"]


_NOTHING = TaskRecord()

#: name -> how it is computed, and what it means; every figure over tasks
FIGURES: Mapping[str, tuple[Callable[[EvaluationMatrix], float], str]] = {
    "average": (EvaluationMatrix.average, "newest results on learned tasks"),
    "learning_average": (EvaluationMatrix.learning_average, "results right after learning"),
    "forgetting": (EvaluationMatrix.forgetting, "loss since the best result"),
    "backward_transfer": (EvaluationMatrix.backward_transfer, "gain since right after learning"),
    "forward_transfer": (EvaluationMatrix.forward_transfer, "gain before learning a task"),
    "average_anytime": (EvaluationMatrix.average_anytime, "mean over all evaluations"),
    "average_worst": (EvaluationMatrix.average_worst, "worst results since learning"),
    "worst_case": (EvaluationMatrix.worst_case, "newest task and the worst of the others"),
    "largest_drop": (EvaluationMatrix.largest_drop, "largest loss between two evaluations"),
}


def _mean(values: Iterable[float]) -> float:
    """Of the values that were measured; NaN when none was."""
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan
