"""Kernel plasticity without its essential terms."""

from __future__ import annotations

import math

import torch

from mutations.base import Mutation, constantly

_PART = "insitu.layers.kernel_plasticity:KernelPlasticity"
_TESTS = "tests/test_strategy_kernel_plasticity.py"

MUTATIONS = {
    "kernel_plasticity: nothing is modulated": Mutation(
        f"{_PART}.modulate", constantly(None), _TESTS
    ),
    "kernel_plasticity: no task leaves a trace": Mutation(
        f"{_PART}.end_task", constantly(None), _TESTS
    ),
    "kernel_plasticity: ends of tasks are not heard": Mutation(
        "insitu.strategies.kernel_plasticity:KernelPlasticityStrategy.end_task",
        constantly(None),
        _TESTS,
    ),
    "kernel_plasticity: changes are not recorded": Mutation(
        f"{_PART}.record", constantly(None), _TESTS
    ),
    "kernel_plasticity: nobody counts hits": Mutation(f"{_PART}.watch", constantly(None), _TESTS),
    "kernels: nobody has a budget": Mutation(
        "insitu.analysis.kernels:_budget",
        lambda part, **_: part["theta"] * math.nan,
        "tests/test_kernels.py",
    ),
    "standardisation: nobody asks for the task": Mutation(
        "insitu.layers.task_statistics:TaskStatistics.places_of",
        lambda self, tasks: torch.full((len(tasks),), -1),
        "tests/test_task_statistics.py",
    ),
    "standardisation: tasks that ended move with the batch": Mutation(
        "insitu.layers.task_statistics:TaskStatistics.without",
        lambda self, rows: torch.ones(len(rows), dtype=torch.bool),
        "tests/test_task_statistics.py",
    ),
    "kernel_plasticity: the third factor is always one": Mutation(
        "insitu.strategies.third_factor:ThirdFactor.of", constantly(1.0), _TESTS
    ),
}
