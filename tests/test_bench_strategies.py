"""The benchmark of strategies: every case is built as the service builds it, for the same rows."""

from __future__ import annotations

import pytest
import torch

from insitu.batch import Batch
from insitu_service.bench.strategies import CASES, Case, bare_loop, trainer_of


def batch_of(seed: int, *, task: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(64, 784, generator=random)
    return Batch.of({"x": x, "y": torch.randint(0, 10, (64,), generator=random)}, task=task)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_trains_as_many_rows_as_its_floor(case: Case) -> None:
    trainer = trainer_of(case)
    for task in range(case.tasks):
        for seed in range(2):
            trainer.step(batch_of(seed, task=task))
        trainer.end_task(task)
    report = trainer.step(batch_of(9, task=case.tasks))
    assert not report.skipped
    assert report.fresh_samples + report.replayed_samples == case.passes[0]
    bare_loop(case.passes)(1)
