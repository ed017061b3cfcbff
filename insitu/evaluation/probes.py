"""Probes: held-out rows of every task, measured and never trained.

Producers send some samples as probes (`SampleFlag.EVALUATE`), or files bring them
(`insitu.evaluation.probe_files`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from insitu.batch import Batch, Column, SampleFlag
from insitu.evaluation.measuring import Evaluator
from insitu.task_samples import TaskSamples


def divide(batch: Batch) -> tuple[Batch, Batch]:
    """The rows to train and the probes, each in order; views where all rows are of one kind.

    Example:
        >>> batch = Batch.of({"x": torch.arange(3.0)})
        >>> batch.provenance[1, Column.FLAGS] = SampleFlag.EVALUATE
        >>> trained, probes = divide(batch)
        >>> trained.fields["x"].tolist(), probes.fields["x"].tolist()
        ([0.0, 2.0], [1.0])
    """
    is_probe = (batch.column(Column.FLAGS) & SampleFlag.EVALUATE).bool()
    probes = int(is_probe.sum())
    if probes == 0:
        return batch, batch.select(slice(0, 0), 0)
    if probes == batch.rows:
        return batch.select(slice(0, 0), 0), batch
    fresh_probes = int(is_probe[: batch.fresh_rows].sum())
    return (
        batch.select(~is_probe, batch.fresh_rows - fresh_probes),
        batch.select(is_probe, fresh_probes),
    )


class ProbeSets:
    """Held-out rows of every task, bounded, and how well a model does on them.

    Args:
        samples_per_task: rows to keep of each task; more are sampled uniformly.
        generator: draws which, on the CPU.
    """

    def __init__(self, samples_per_task: int, generator: torch.Generator) -> None:
        self._samples = TaskSamples(samples_per_task, generator)

    def add(self, probes: Batch) -> None:
        """Keep probes under their tasks, as copies; only pass rows that are probes."""
        self._samples.add(probes)

    def forget(self, task: int) -> None:
        """Drop the probes of a task."""
        self._samples.forget(task)

    def counts(self) -> dict[int, int]:
        """Task -> probes kept."""
        return self._samples.counts()

    def evaluate(
        self, evaluator: Evaluator, only: Collection[int] | None = None
    ) -> dict[int, dict[str, float]]:
        """Task -> figure -> value, over all probes of the task; of every task, or `only` these."""
        results = {}
        for task in self._samples.tasks():
            if only is not None and task not in only:
                continue
            rows = self._samples.rows(task)
            if rows is not None:
                results[task] = evaluator.evaluate(rows).figures()
        return results

    def state_dict(self) -> dict[str, Any]:
        return self._samples.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._samples.load_state_dict(state)
