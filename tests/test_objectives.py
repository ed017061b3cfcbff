"""Objectives: one contract for all, and the numbers of each against plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from insitu.batch import Batch
from insitu.component import catalogue, find
from insitu.errors import OperatorError
from insitu.memory.base import Memory
from insitu.normalisation import Normaliser
from insitu.objectives.base import Objective
from insitu.objectives.classify import Classify
from insitu.objectives.forecast import Forecast
from insitu.objectives.nearest_class_mean import NearestClassMean
from insitu.objectives.reconstruct import Reconstruct
from insitu.objectives.regress import Regress
from insitu.schema import Schema
from insitu.strategies.replay import ExperienceReplay
from insitu.trainer import Trainer
from learning import assert_same, copied, make_memory

SCHEMA = Schema.of(
    {
        "x": ("float32", (2, 3, 4)),
        "y": ("float32", (2, 3, 4)),
        "image": ("uint8", (3, 4)),
        "label": ("uint8", ()),
        "column": ("int64", (1,)),
        "parameters": ("float64", (5,)),
        "number": ("float32", ()),
        "head": ("int32", ()),
        "wave": ("complex64", (2, 3, 4)),
    }
)
CASES: dict[str, list[dict[str, Any]]] = {
    "classify": [
        {"target": "label", "classes": 4},
        {"input": "image", "target": "column", "classes": 3, "label_smoothing": 0.1},
    ],
    "reconstruct": [{}, {"input": "image", "loss": "l1"}, {"input": "y", "target": "x"}],
    "forecast": [{}, {"residual": True, "loss": "l1"}],
    "growing_classify": [
        {"target": "label", "classes": 4},
        {"target": "column", "classes": 3, "label_smoothing": 0.1, "unlabelled": True},
    ],
    "multi_head": [
        {"target": "label", "heads": 3, "classes": 4},
        {"target": "label", "heads": 2, "classes": 2, "labels": "running", "head": "head"},
    ],
    "nearest_class_mean": [
        {"target": "label", "classes": 4, "features": 5},
        {"target": "column", "classes": 3, "features": 2, "decay": 1.0, "unlabelled": True},
    ],
    "contrastive": [
        {"target": "label", "classes": 4, "features": 5, "projection": 3, "cut_gradient": False},
        {"target": "label", "classes": 4, "features": 5, "projection": 3, "views": "mirrored"},
    ],
    "ridge": [
        {"target": "label", "classes": 4, "features": 5, "train_features": True},
        {"target": "label", "classes": 4, "features": 5, "expand": 9, "train_features": True},
    ],
    "task_heads": [
        {"target": "label", "heads": 3, "classes": 4, "features": 5},
        {"target": "label", "heads": 2, "classes": 4, "features": 5, "choice": "nearest_mean"},
    ],
    "density": [{"input": "x", "condition": "number"}, {"input": "parameters"}],
    "regress": [
        {"input": "parameters", "target": "x"},
        {"input": "number", "target": "number"},
    ],
}
ALL = [(name, options) for name, cases in CASES.items() for options in cases]


class Network(nn.Module):
    """A linear map between any two shapes."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.output_shape = objective.output_shape
        inputs, outputs = int(np.prod(objective.input_shape)), int(np.prod(objective.output_shape))
        self.weight = nn.Parameter(torch.linspace(-1, 1, inputs * outputs).view(outputs, inputs))

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        rows = fields.shape[0]
        return (fields.reshape(rows, self.weight.shape[1]) @ self.weight.T).reshape(
            rows, *self.output_shape
        )


def make(name: str, options: dict[str, Any]) -> Objective:
    objective = catalogue("insitu.objectives")[name].build(options, {"schema": SCHEMA})
    assert isinstance(objective, Objective)
    return objective


def make_batch(rows: int, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    shape = (rows, 2, 3, 4)
    return Batch.of(
        {
            "x": torch.randn(shape, generator=draw),
            "y": torch.randn(shape, generator=draw),
            "image": torch.randint(0, 256, (rows, 3, 4), generator=draw, dtype=torch.uint8),
            "label": torch.randint(0, 4, (rows,), generator=draw, dtype=torch.uint8),
            "column": torch.randint(0, 3, (rows, 1), generator=draw),
            "parameters": torch.randn(rows, 5, generator=draw, dtype=torch.float64),
            "number": torch.randn(rows, generator=draw),
            "head": torch.randint(0, 2, (rows,), generator=draw, dtype=torch.int32),
        }
    )


def wrapped(objective: Objective) -> tuple[nn.Module, Network]:
    """What is trained, and the model inside; the objective has seen rows of all classes."""
    model = Network(objective)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = objective.network(model)
    batch = make_batch(20, seed=9)
    objective.observe(objective.predict(network, batch).detach(), batch)
    return network, model


def test_every_objective_is_in_the_cases() -> None:
    assert set(catalogue("insitu.objectives")) == set(CASES)


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_contract(name: str, options: dict[str, Any], rows: int) -> None:
    objective = make(name, options)
    network, model = wrapped(objective)
    batch = make_batch(rows)
    before = {field: tensor.clone() for field, tensor in batch.fields.items()}
    outputs = objective.predict(network, batch)
    assert outputs.shape == (rows, *objective.predicted_shape)
    losses = objective.losses(outputs, batch)
    assert losses.shape == (rows,)
    assert losses.dtype == torch.float32
    assert bool(torch.isfinite(losses).all())
    torch.autograd.backward(losses.sum())
    assert model.weight.grad is not None
    # a single view of a single row has nothing to be contrasted with, but its head learns
    assert bool(model.weight.grad.any()) == (rows > (getattr(objective, "views", 0) == 2))
    for score in objective.scores(outputs, batch).values():
        assert score.shape == ()
        assert not score.requires_grad
        assert bool(torch.isfinite(score)) == (rows > 0)
    assert all(torch.equal(before[field], batch.fields[field]) for field in before)
    assert objective.inputs(batch).shape == (rows, *objective.input_shape)
    assert set(objective.fields) <= {field.name for field in SCHEMA.fields}


@pytest.mark.parametrize(("name", "options"), ALL)
def test_the_loss_of_a_row_does_not_depend_on_the_others(
    name: str, options: dict[str, Any]
) -> None:
    objective, batch = make(name, options), make_batch(6)
    network, _ = wrapped(objective)
    together = objective.losses(objective.predict(network, batch), batch)
    alone = [batch.select(slice(row, row + 1), 1) for row in range(6)]
    losses = torch.cat([objective.losses(objective.predict(network, row), row) for row in alone])
    assert torch.allclose(losses, together, rtol=1e-5) == objective.row_by_row


@pytest.mark.parametrize(("name", "options"), ALL)
def test_bfloat16_outputs_are_judged_in_float32(name: str, options: dict[str, Any]) -> None:
    objective, batch = make(name, options), make_batch(3)
    outputs = objective.predict(wrapped(objective)[0], batch).to(torch.bfloat16)
    assert objective.losses(outputs, batch).dtype == torch.float32


@pytest.mark.parametrize(("name", "options"), ALL)
def test_outputs_of_another_shape_are_refused(name: str, options: dict[str, Any]) -> None:
    objective, batch = make(name, options), make_batch(2)
    with pytest.raises(OperatorError, match=r"outputs of shape \[7, 9\]"):
        objective.losses(torch.zeros(2, 7, 9), batch)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_classify_against_numpy(smoothing: float) -> None:
    objective = Classify(SCHEMA, target="label", classes=4, label_smoothing=smoothing)
    batch = make_batch(7)
    logits = np.random.default_rng(1).normal(size=(7, 4))
    labels = batch.fields["label"].numpy()
    log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    outputs = torch.tensor(logits)
    np.testing.assert_allclose(
        objective.losses(outputs, batch), -(wanted * log_shares).sum(1), rtol=1e-5
    )
    accuracy = objective.scores(outputs, batch)["accuracy"]
    assert accuracy.item() == pytest.approx((logits.argmax(1) == labels).mean())


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_fields_against_numpy(loss: Any) -> None:
    batch, outputs = make_batch(4), torch.randn(4, 2, 3, 4, generator=torch.Generator())
    x, y, o = (t.double().numpy() for t in (batch.fields["x"], batch.fields["y"], outputs))
    error = (o - y) ** 2 if loss == "mse" else np.abs(o - y)
    for objective in (
        Forecast(SCHEMA, loss=loss),
        Reconstruct(SCHEMA, target="y", loss=loss),
        Regress(SCHEMA, loss=loss),
    ):
        np.testing.assert_allclose(
            objective.losses(outputs, batch), error.reshape(4, -1).mean(1), rtol=1e-5
        )
        scores = objective.scores(outputs, batch)
        assert scores["rmse"].item() == pytest.approx(np.sqrt(np.mean((o - y) ** 2)), rel=1e-5)
        relative = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(o, y, strict=True)]
        assert scores["relative_error"].item() == pytest.approx(np.mean(relative), rel=1e-5)
    persistence = Forecast(SCHEMA).scores(outputs, batch)["rmse_persistence"]
    assert persistence.item() == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), rel=1e-5)


def test_a_residual_forecast_learns_the_change() -> None:
    objective, batch = Forecast(SCHEMA, residual=True), make_batch(3)

    class Change(nn.Module):
        def forward(self, fields: torch.Tensor) -> torch.Tensor:
            return batch.fields["y"] - batch.fields["x"]

    outputs = objective.predict(Change(), batch)
    assert float(objective.losses(outputs, batch).max()) < 1e-10


def test_integer_images_are_read_in_unit_range() -> None:
    objective, batch = Reconstruct(SCHEMA, input="image"), make_batch(2)
    assert torch.equal(objective.inputs(batch), batch.fields["image"].float() / 255)
    assert float(objective.losses(objective.inputs(batch), batch).max()) == 0.0


def test_what_an_objective_says_of_its_fields() -> None:
    classify = Classify(SCHEMA, target="label", classes=4)
    assert classify.label_range == {"label": (0, 3)}
    assert classify.statistics_of == {"x": "x"}
    assert classify.fields == ("x", "label")
    assert Forecast(SCHEMA).statistics_of == {"x": "x", "y": "x"}
    assert Regress(SCHEMA).statistics_of == {"x": "x", "y": "y"}
    assert Reconstruct(SCHEMA).statistics_of == {"x": "x"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("classify", {"input": "nope", "target": "label", "classes": 2}, "'nope'.*does not have"),
        ("classify", {"target": "x", "classes": 2}, r"'x' is float32\[2, 3, 4\]"),
        ("classify", {"target": "number", "classes": 2}, r"'number' is float32\[\]"),
        ("classify", {"input": "wave", "target": "label", "classes": 2}, "complex64"),
        ("classify", {"target": "label", "classes": 1}, "classes"),
        ("classify", {"target": "label"}, "classes"),
        ("classify", {"target": "label", "classes": 2, "label_smoothing": 1.0}, "smoothing"),
        ("reconstruct", {"target": "image"}, r"'x' \[2, 3, 4\], 'image' \[3, 4\]"),
        ("reconstruct", {"loss": "huber"}, "loss"),
        ("forecast", {"target": "gone"}, "target is 'gone'"),
        ("forecast", {"target": "image"}, r"'x' \[2, 3, 4\], 'image' \[3, 4\]"),
        ("regress", {"target": "wave"}, "real and imaginary"),
        ("regress", {"traget": "y"}, "traget: no such option"),
    ],
)
def test_wrong_configuration_is_refused_by_name(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OperatorError, match=message):
        make(name, options)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_what_was_learned_goes_round_bit_by_bit(name: str, options: dict[str, Any]) -> None:
    objective, other, batch = make(name, options), make(name, options), make_batch(6)
    network, _ = wrapped(objective)
    other.load_state_dict(copied(objective.state_dict()))
    assert_same(copied(other.state_dict()), copied(objective.state_dict()))
    outputs = [o.predict(network, batch).detach() for o in (objective, other)]
    assert torch.equal(*outputs)
    for o, given in zip((objective, other), outputs, strict=True):
        o.observe(given, batch)
    assert_same(copied(other.state_dict()), copied(objective.state_dict()))
    with pytest.raises(OperatorError, match="surprise"):
        other.load_state_dict({**objective.state_dict(), "surprise": 1})


@pytest.mark.parametrize(("name", "options"), ALL)
def test_only_observe_learns(name: str, options: dict[str, Any]) -> None:
    objective, batch = make(name, options), make_batch(6)
    network, _ = wrapped(objective)
    before = copied(objective.state_dict())
    outputs = objective.predict(network, batch)
    objective.losses(outputs, batch)
    objective.scores(outputs.detach(), batch)
    objective.distances(outputs, outputs.detach())
    assert_same(copied(objective.state_dict()), before)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_scores_are_the_same_after_their_rows_were_learned(
    name: str, options: dict[str, Any]
) -> None:
    """A report's scores are computed when somebody reads them."""
    objective, batch = make(name, options), make_batch(12)
    network = wrapped(make(name, options))[0]  # this objective has seen nothing
    outputs = objective.predict(network, batch).detach()
    before = {name: float(score) for name, score in objective.scores(outputs, batch).items()}
    objective.observe(outputs, batch)
    after = {name: float(score) for name, score in objective.scores(outputs, batch).items()}
    assert before == after


def trained(
    name: str,
    options: dict[str, Any],
    updates: int,
    *,
    learning_rate: float = 0.0,
    memory: Memory | None = None,
) -> Trainer:
    """A trainer after three batches, all of it from one seed."""
    objective = make(name, options)
    network = Network(objective)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = objective.network(network)
    trainer = Trainer(
        model,
        objective,
        torch.optim.SGD(model.parameters(), lr=learning_rate),
        normaliser=Normaliser(SCHEMA, objective.statistics_of),
        strategies=[] if memory is None else [ExperienceReplay(memory, samples_per_step=4)],
        updates_per_batch=updates,
    )
    for seed in range(3):
        assert trainer.step(make_batch(10, seed)).step == seed + 1
    assert trainer.skipped_steps == 0
    return trainer


@pytest.mark.parametrize(("name", "options"), ALL)
def test_several_updates_on_a_batch_count_its_rows_once(name: str, options: dict[str, Any]) -> None:
    """With weights that stand still nothing of what is counted may tell three updates from one."""
    once, thrice = trained(name, options, 1).state_dict(), trained(name, options, 3).state_dict()
    assert_same(thrice["objective"], once["objective"])
    assert_same(thrice["normaliser"], once["normaliser"])


def test_sums_over_a_frozen_model_are_exact_with_several_updates() -> None:
    options = {"target": "label", "classes": 4, "features": 5}
    once, thrice = (trained("ridge", options, n, learning_rate=0.1).objective for n in (1, 3))
    assert_same(thrice.state_dict(), once.state_dict())


def test_replayed_rows_count_in_every_update_since_they_are_drawn_anew() -> None:
    options = {"target": "label", "classes": 4, "features": 5, "decay": 1.0}
    memory = make_memory(64)
    objective = trained(
        "nearest_class_mean", options, 3, learning_rate=0.1, memory=memory
    ).objective
    assert isinstance(objective, NearestClassMean)
    replayed = int(memory.times_replayed.sum())
    assert replayed == 2 * 3 * 4
    assert objective.class_means.rows.sum() == 3 * 10 + replayed


@pytest.mark.parametrize(("name", "options"), ALL)
def test_distances_are_a_row_each_and_pull_to_the_targets(
    name: str, options: dict[str, Any]
) -> None:
    objective, batch = make(name, options), make_batch(4)
    network, _ = wrapped(objective)
    outputs = objective.predict(network, batch)
    assert not objective.distances(outputs, outputs.detach()).any()
    apart = objective.distances(outputs, outputs.detach() + 1.0)
    assert apart.shape == (4,)
    assert bool((apart > 0).all())
    torch.autograd.backward(apart.sum())
    assert any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


LIKELIHOODS = [(n, o) for n, o in ALL if make(n, o).is_likelihood and n not in ("reconstruct",)]


@pytest.mark.parametrize(("name", "options"), LIKELIHOODS)
def test_drawn_targets_can_be_judged(name: str, options: dict[str, Any]) -> None:
    objective, batch = make(name, options), make_batch(5)
    network, _ = wrapped(objective)
    outputs = objective.predict(network, batch).detach()
    drawn = objective.drawn_targets(outputs, batch, torch.Generator().manual_seed(0))
    again = objective.drawn_targets(outputs, batch, torch.Generator().manual_seed(0))
    assert_same(dict(drawn.fields), dict(again.fields))
    assert bool(torch.isfinite(objective.losses(outputs, drawn)).all())
    for field, (low, high) in objective.label_range.items():
        assert low <= int(drawn.fields[field].min()) <= int(drawn.fields[field].max()) <= high


def make_own(schema: Schema, *, power: float = 2.0) -> Objective:
    """A user's own objective: a class of theirs behind a factory."""

    class Own(Regress):
        def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            return super().losses(outputs, batch) ** power

    return Own(schema, input="parameters", target="number")


def test_an_objective_of_the_users_own_is_trained() -> None:
    torch.manual_seed(0)
    component = find("insitu.objectives", f"{__name__}:make_own")
    objective = component.build({"power": 1.5}, {"schema": SCHEMA})
    model = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    trainer = Trainer(model, objective, torch.optim.SGD(model.parameters(), lr=0.05))
    losses = [float(trainer.step(make_batch(16)).loss) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(OperatorError, match="powr: no such option"):
        component.check({"powr": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("classify", {"target": "label", "classes": 2, "unlabelled": True}, "'label' is uint8"),
        ("growing_classify", {"target": "label", "classes": 2, "unlabelled": True}, "signed"),
        ("multi_head", {"target": "label", "heads": 2, "classes": 2, "head": "x"}, "head 'x' is"),
        ("multi_head", {"target": "label", "heads": 0, "classes": 2}, "heads"),
        ("nearest_class_mean", {"target": "label", "classes": 2, "decay": 0.0}, "decay"),
        ("contrastive", {"target": "label", "classes": 2, "temperature": 0.0}, "temperature"),
        ("ridge", {"target": "label", "classes": 2}, "features"),
        ("ridge", {"target": "label", "classes": 2, "features": 3, "regularisation": 0}, "regu"),
        ("density", {"condition": "gone"}, "condition is 'gone'"),
        ("density", {"input": "wave"}, "complex64"),
    ],
)
def test_wrong_options_of_the_newer_ones_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OperatorError, match=message):
        make(name, options)
