"""Task-balancing reservoir sampling: shares between tasks, and chances within one."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from inclusion import inclusion_pvalue
from insitu.batch import Batch, Column
from insitu.memory.task_balanced import TaskBalanced


def _memory(capacity: int, generator: torch.Generator | None = None) -> TaskBalanced:
    random = torch.Generator().manual_seed(0) if generator is None else generator
    return TaskBalanced(capacity, torch.device("cpu"), random)


def _batch(rows: int, task: int, start: int = 0) -> Batch:
    batch = Batch.of({"x": torch.zeros(rows)}, task=task)
    batch.provenance[:, Column.ROW] += start
    return batch


@given(
    capacity=st.integers(4, 40),
    visits=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=20),
)
def test_tasks_that_had_enough_differ_by_one_at_most(
    capacity: int, visits: list[tuple[int, int]]
) -> None:
    memory, offered = _memory(capacity), Counter[int]()
    for task, rows in visits:
        memory.add(_batch(rows, task))
        offered[task] += rows
    held = memory.composition()
    most = max(held.values())
    for task, count in offered.items():
        # a task that is further behind has all that it ever offered
        assert held.get(task, 0) >= min(most - 1, count)


def test_within_a_task_every_sample_is_kept_alike() -> None:
    generator, counts = torch.Generator().manual_seed(1), Counter[int]()
    for _ in range(800):
        memory = _memory(8, generator)
        for task in range(2):
            memory.add(_batch(7, task, start=10 * task))
        held = memory.provenance
        assert memory.composition() == {0: 4, 1: 4}
        counts.update(held[held[:, Column.TASK] == 0, Column.ROW].tolist())
    assert inclusion_pvalue([counts[number] for number in range(7)], 4) > 1e-4
