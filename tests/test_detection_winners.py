"""Winners of a Hebbian layer as a sign of a new task, in a trainer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from insitu.batch import Batch
from insitu.detection import DriftWatch
from insitu.detection.winner_divergence import WinnerDivergence
from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock
from insitu.layers.convolution import HebbianConv1d
from insitu.layers.learning_rates import ConstantRates
from insitu.layers.rules.softhebb import SoftHebb
from insitu.objectives.classify import Classify
from insitu.schema import Schema
from insitu.trainer import Trainer
from learning import generator

SCHEMA = Schema.of({"x": ("float32", (2, 6)), "y": ("int64", ())})


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        HebbianConv1d(channels, 8, 3, SoftHebb(), ConstantRates(0.001), padding=1)
        for channels in (2, 8)
    ]
    blocks = [HebbianBlock(layer) for layer in layers]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(48, 2))


def boundaries(quiet: int, after: int, *, layer: str | None = None) -> list[int]:
    """Steps at which a trainer told of a boundary; the inputs change after `quiet` steps."""
    model = network()
    watch = DriftWatch([(WinnerDivergence(model, layer=layer), 0)])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    trainer = Trainer(model, Classify(SCHEMA, classes=2), optimizer, watch=watch)
    random, found = generator(1), []
    for step in range(1, quiet + after + 1):
        x = torch.randn(8, 2, 6, generator=random)
        if step > quiet:
            x = x.cumsum(dim=2)
        y = torch.randint(0, 2, (8,), generator=random)
        if trainer.step(Batch.of({"x": x, "y": y})).boundary is not None:
            found.append(step)
    return found


@pytest.mark.parametrize("layer", [None, "0.layer", "1.layer"])
def test_a_trainer_ends_the_task_where_other_kernels_win(layer: str | None) -> None:
    found = boundaries(140, 40, layer=layer)
    assert len(found) == 1
    assert 141 <= found[0] <= 180


def test_rows_that_are_only_looked_at_do_not_count() -> None:
    model = network()
    detector = WinnerDivergence(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    trainer = Trainer(
        model, Classify(SCHEMA, classes=2), optimizer, watch=DriftWatch([(detector, 0)])
    )
    batch = Batch.of({"x": torch.randn(4, 2, 6), "y": torch.zeros(4, dtype=torch.int64)})
    trainer.step(batch)
    before = detector.state_dict()["steps"]
    trainer.evaluate(batch)
    trainer.criterion.gradient(batch)
    assert detector.state_dict()["steps"] == before == 1
    assert detector._shares is None


@pytest.mark.parametrize("places", [(), (5,), (3, 4)])
def test_shares_are_counts_of_winners(places: tuple[int, ...]) -> None:
    detector = WinnerDivergence(network(), most_rows=4)
    potentials = torch.randn(6, 8, *places, generator=generator(2))
    potentials[1, 3] = torch.inf
    detector._watch(potentials)
    assert detector._shares is not None
    assert detector._shares.shape == (4, 8)
    for row, shares in enumerate(detector._shares):
        at_places = potentials[row].reshape(8, -1).T.tolist()
        winners = [max(range(8), key=place.__getitem__) for place in at_places]
        plain = torch.tensor([winners.count(kernel) / len(winners) for kernel in range(8)])
        if row == 1:
            assert shares.isnan().all()
        else:
            torch.testing.assert_close(shares, plain)


def test_a_layer_that_is_frozen_is_watched_all_the_same() -> None:
    model = network()
    detector = WinnerDivergence(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    trainer = Trainer(
        model, Classify(SCHEMA, classes=2), optimizer, watch=DriftWatch([(detector, 0)])
    )
    model[0].eval()
    trainer.step(Batch.of({"x": torch.randn(4, 2, 6), "y": torch.zeros(4, dtype=torch.int64)}))
    assert detector.state_dict()["steps"] == 1


@pytest.mark.parametrize("layer", [None, "elsewhere"])
def test_a_layer_that_is_not_there_is_refused(layer: str | None) -> None:
    model = nn.Linear(2, 2) if layer is None else network()
    with pytest.raises(OperatorError, match="is to watch Hebbian layer"):
        WinnerDivergence(model, layer=layer)
