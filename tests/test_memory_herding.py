"""Herding: which exemplars stay, against a search over all choices in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from insitu.batch import Batch, Column
from insitu.criterion import Criterion
from insitu.memory.herding import Herding
from insitu.objectives.classify import Classify
from insitu.schema import Schema

CLASSES = 3


def _criterion() -> Criterion:
    """Outputs are the inputs, so that features are known."""
    schema = Schema.of({"x": ("float32", (CLASSES,)), "y": ("int64", ())})
    model = nn.Sequential(nn.Linear(CLASSES, CLASSES, bias=False), nn.Dropout(0.5))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(CLASSES))
    return Criterion(model, Classify(schema, classes=CLASSES))


def _batch(rows: int, seed: int, classes: int = 2) -> Batch:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, CLASSES, generator=random) + 1
    batch = Batch.of({"x": x, "y": torch.randint(classes, (rows,), generator=random)})
    batch.provenance[:, Column.ROW] += 1000 * seed
    return batch


def _memory(capacity: int) -> Herding:
    return Herding(
        capacity, torch.device("cpu"), torch.Generator().manual_seed(0), _criterion(),
        mean_samples=10**6,
    )  # fmt: skip


def _without_least(features: dict[int, np.ndarray], mean: np.ndarray) -> int:
    """The sample without which the mean of the rest is nearest: by trying all of them."""

    def distance(left_out: int) -> float:
        rest = [feature for number, feature in features.items() if number != left_out]
        return float(np.linalg.norm(np.mean(rest, 0) - mean)) if rest else 0.0

    return min(features, key=distance)


def test_it_keeps_what_a_search_over_all_choices_keeps() -> None:
    capacity, memory = 8, _memory(8)
    held: dict[int, dict[int, np.ndarray]] = {0: {}, 1: {}}
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for seed in range(12):
        batch = _batch(7, seed)
        features = nn.functional.normalize(batch.fields["x"].double(), dim=1).numpy()
        rows = zip(batch.column(Column.ROW).tolist(), batch.fields["y"].tolist(), strict=True)
        for place, (number, label) in enumerate(rows):
            own, other = held[label], held[1 - label]
            seen[label].append(features[place])
            full = len(own) + len(other) == capacity
            own_turn = full and own and len(own) + 1 >= max(len(own), len(other))
            if full and not own_turn:
                del other[_without_least(other, np.mean(seen[1 - label], 0))]
            own[number] = features[place]
            if own_turn:
                del own[_without_least(own, np.mean(seen[label], 0))]
        memory.add(batch)
        numbers = sorted(number for part in held.values() for number in part)
        assert sorted(memory.provenance[:, Column.ROW].tolist()) == numbers


def test_its_exemplars_stand_for_the_mean_of_their_class_better_than_chance() -> None:
    memory, everything = _memory(10), []
    for seed in range(40):
        batch = _batch(10, seed, classes=1)
        memory.add(batch)
        everything.append(nn.functional.normalize(batch.fields["x"], dim=1))
    mean = torch.cat(everything).mean(0)
    kept = memory.read(np.arange(10)).fields["x"]
    error = (nn.functional.normalize(kept, dim=1).mean(0) - mean).norm()
    random = torch.stack(
        [(torch.cat(everything)[torch.randperm(400)[:10]].mean(0) - mean).norm() for _ in range(50)]
    )
    assert error < random.min()


def test_classes_share_evenly_and_the_model_is_left_as_it_was() -> None:
    memory = _memory(11)
    for seed in range(10):
        memory.add(_batch(9, seed, classes=3))
    counts = torch.bincount(memory.read(np.arange(11)).fields["y"])
    assert sorted(counts.tolist()) == [3, 4, 4]
    assert memory._criterion.module.training
