"""Loss-aware reservoir sampling: who goes, against the formula of the paper."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from inclusion import inclusion_pvalue
from insitu.batch import Batch, Column
from insitu.memory.loss_aware import LossAware

_CPU = torch.device("cpu")
LOSSES = [0.1, 2.0, 0.5, 1.1, 0.9]


def _batch(rows: int, start: int = 0) -> Batch:
    batch = Batch.of({"x": torch.zeros(rows)})
    batch.provenance[:, Column.ROW] += start
    return batch


def _held(memory: LossAware) -> list[int]:
    return memory.provenance[:, Column.ROW].tolist()


def _who_goes(losses: list[float], *, updated: bool, candidates: int = 256) -> Counter[int]:
    """A full memory meets one more sample, many times; the slots that it then takes."""
    generator, gone = torch.Generator().manual_seed(3), Counter[int]()
    for _ in range(1500):
        memory = LossAware(5, _CPU, generator, candidates=candidates)
        memory.add(_batch(5), torch.zeros(5) if updated else torch.tensor(losses))
        if updated:
            memory.update_losses(np.arange(4, -1, -1), torch.tensor(losses[::-1]))
        memory.add(_batch(1, start=5), torch.zeros(1))
        gone.update(slot for slot, number in enumerate(_held(memory)) if number == 5)
    return gone


@pytest.mark.parametrize("updated", [False, True], ids=["as added", "as updated"])
def test_the_one_that_goes_is_drawn_as_the_paper_says(updated: bool) -> None:
    gone = _who_goes(LOSSES, updated=updated)
    weights = (max(LOSSES) - np.array(LOSSES)) / (max(LOSSES) - min(LOSSES))
    assert gone[1] == 0  # the highest loss stays
    others = [0, 2, 3, 4]
    expected = weights[others] / weights.sum() * gone.total()
    assert chisquare([gone[slot] for slot in others], expected).pvalue > 1e-4
    assert pytest.approx(gone.total(), abs=5 * np.sqrt(1500 * 5 / 36)) == 1500 * 5 / 6


def test_losses_that_are_all_the_same_choose_nobody() -> None:
    gone = _who_goes([0.7] * 5, updated=False)
    assert chisquare([gone[slot] for slot in range(5)]).pvalue > 1e-4


def test_an_unknown_loss_counts_as_the_mean_of_the_others() -> None:
    assert _who_goes([0.0, 1.0, float("nan"), 0.5, 1.0], updated=False)[2] > 100


def test_with_few_candidates_it_still_prefers_low_losses() -> None:
    gone = _who_goes(LOSSES, updated=False, candidates=2)
    assert gone[1] == 0
    assert gone[0] > gone[3] > 50


def test_without_losses_it_is_a_reservoir() -> None:
    generator, counts = torch.Generator().manual_seed(1), Counter[int]()
    for _ in range(1000):
        memory = LossAware(12, _CPU, generator)
        for start, rows in ((0, 9), (9, 4), *((number, 1) for number in range(13, 18))):
            memory.add(_batch(rows, start))
        counts.update(_held(memory))
    assert inclusion_pvalue([counts[number] for number in range(18)], 12) > 1e-4


def test_the_hardest_samples_outlive_a_long_stream_of_easy_ones() -> None:
    memory = LossAware(20, _CPU, torch.Generator().manual_seed(5))
    memory.add(_batch(20), torch.cat((torch.full((5,), 9.0), torch.full((15,), 0.1))))
    for start in range(20, 4000, 20):
        memory.add(_batch(20, start), torch.full((20,), 0.1))
    assert set(range(5)) <= set(_held(memory))
