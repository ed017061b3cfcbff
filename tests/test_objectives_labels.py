"""Objectives on labels, each against plain numpy written from its paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.objectives.base import Objective
from insitu.objectives.classify import Classify
from insitu.objectives.contrastive import Contrastive, contrastive_losses
from insitu.objectives.growing_classify import GrowingClassify
from insitu.objectives.least_squares import LeastSquares
from insitu.objectives.multi_head import MultiHead
from insitu.objectives.nearest_class_mean import NearestClassMean
from insitu.objectives.ridge import Ridge
from insitu.schema import Schema
from insitu.trainer import Trainer

INPUTS = 5
SCHEMA = Schema.of({"x": ("float32", (INPUTS,)), "y": ("int64", ())})
Array = NDArray[np.float64]


def batch_of(labels: list[int], seed: int = 0, *, task: int = 0) -> Batch:
    x = torch.randn(len(labels), INPUTS, generator=torch.Generator().manual_seed(seed))
    return Batch.of({"x": x, "y": torch.tensor(labels, dtype=torch.int64)}, task=task)


def log_softmax(logits: Array) -> Array:
    shifted: Array = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def linear(outputs: int, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(INPUTS, outputs)


def learn(objective: Objective, model: nn.Module, *batches: Batch) -> None:
    for batch in batches:
        objective.observe(objective.predict(model, batch).detach(), batch)


# rows without label


@pytest.mark.parametrize("kind", [Classify, GrowingClassify])
@given(labels=st.lists(st.integers(-1, 3), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_rows_without_label_leave_mean_scores_and_gradient_of_the_others(
    kind: Any, labels: list[int]
) -> None:
    objective = kind(SCHEMA, classes=4, unlabelled=True, label_smoothing=0.1)
    plain = kind(SCHEMA, classes=4, label_smoothing=0.1)
    batch, model = batch_of(labels), linear(4)
    has_label = batch.fields["y"] >= 0
    labelled = batch.select(has_label, int(has_label.sum()))
    outputs = objective.predict(model, batch)
    losses = objective.losses(outputs, batch)
    assert not losses[~has_label].any()
    gradient = torch.autograd.grad(losses.mean(), model.weight)[0]
    assert bool(torch.isfinite(gradient).all())
    accuracy = objective.scores(outputs, batch)["accuracy"]
    if not labelled.rows:
        assert not gradient.any()
        assert bool(accuracy.isnan())
        return
    wanted_outputs = plain.predict(model, labelled)
    wanted = plain.losses(wanted_outputs, labelled).mean()
    torch.testing.assert_close(losses.mean(), wanted)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, model.weight)[0])
    torch.testing.assert_close(accuracy, plain.scores(wanted_outputs, labelled)["accuracy"])


def test_rows_without_label_are_let_in_at_the_door_only_if_wanted() -> None:
    assert Classify(SCHEMA, classes=4, unlabelled=True).label_range == {"y": (-1, 3)}
    assert Classify(SCHEMA, classes=4).label_range == {"y": (0, 3)}
    objective = Classify(SCHEMA, classes=4, unlabelled=True)
    assert objective.labels(batch_of([2, -1])).tolist() == [2, -1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(NearestClassMean, {}), (Contrastive, {"projection": 2}), (Ridge, {"train_features": True})],
)
def test_rows_without_label_teach_no_class(kind: Any, options: dict[str, Any]) -> None:
    objective = kind(SCHEMA, classes=3, features=4, unlabelled=True, **options)
    other = kind(SCHEMA, classes=3, features=4, unlabelled=True, **options)
    network = objective.network(linear(4))
    mixed = batch_of([0, -1, 2, -1, 1])
    has_label = mixed.fields["y"] >= 0
    learn(objective, network, mixed)
    learn(other, network, mixed.select(has_label, 3))
    for key in ("means", "gram"):
        if key in objective.state_dict():
            assert torch.equal(objective.state_dict()[key] != 0, other.state_dict()[key] != 0)
            torch.testing.assert_close(objective.state_dict()[key], other.state_dict()[key])
    losses = objective.losses(objective.predict(network, mixed), mixed)
    assert bool(torch.isfinite(losses).all())
    assert not losses[~has_label].any()


# growing


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_growing_classifier_is_one_of_the_classes_that_came(smoothing: float) -> None:
    """Trained beside a classifier with a head of the open classes only."""
    open_classes, closed = [1, 4, 6], [0, 2, 3, 5]
    objective = GrowingClassify(SCHEMA, classes=7, label_smoothing=smoothing)
    small = Classify(SCHEMA, classes=3, label_smoothing=smoothing)
    model, own = linear(7), linear(3, seed=1)
    own.load_state_dict({k: v[open_classes] for k, v in model.state_dict().items()})
    closed_before = model.weight[closed].detach().clone()
    large_trainer = Trainer(model, objective, torch.optim.Adam(model.parameters(), lr=0.05))
    small_trainer = Trainer(own, small, torch.optim.Adam(own.parameters(), lr=0.05))
    for step in range(20):
        numbers = [0, 1, 2, *torch.randint(3, (5,)).tolist()]
        batch = batch_of([open_classes[number] for number in numbers], step)
        report = large_trainer.step(batch)
        wanted = small_trainer.step(batch.with_fields({**batch.fields, "y": torch.tensor(numbers)}))
        torch.testing.assert_close(report.losses, wanted.losses)
        assert report.scores["accuracy"] == wanted.scores["accuracy"]
        assert report.scores["classes_seen"] == 3
    torch.testing.assert_close(model.weight[open_classes], own.weight)
    assert torch.equal(model.weight[closed], closed_before)


def test_a_class_counts_at_once_and_stays() -> None:
    objective = GrowingClassify(SCHEMA, classes=4)
    logits = torch.tensor([[0.0, 0.0, 50.0, 0.0]])
    first = objective.losses(logits.repeat(2, 1), batch_of([0, 1]))
    np.testing.assert_allclose(first, np.log(2), rtol=1e-6)
    objective.observe(logits.repeat(2, 1), batch_of([0, 1]))
    three = objective.losses(logits, batch_of([3]))
    np.testing.assert_allclose(three, np.log(3), rtol=1e-6)
    # the largest logit is of a class that never came
    assert objective.scores(logits, batch_of([0]))["accuracy"] == 1.0
    objective.observe(logits, batch_of([2]))
    assert objective.scores(logits, batch_of([0]))["accuracy"] == 0.0


def test_targets_are_drawn_among_open_classes() -> None:
    objective = GrowingClassify(SCHEMA, classes=4)
    batch = batch_of([0, 3] * 50)
    drawn = objective.drawn_targets(torch.zeros(100, 4), batch, torch.Generator().manual_seed(0))
    assert set(drawn.fields["y"].tolist()) == {0, 3}


# multi-head


@pytest.mark.parametrize("labels", ["per_head", "running"])
def test_multi_head_equals_a_linear_head_for_every_task(labels: Any) -> None:
    objective = MultiHead(SCHEMA, heads=3, classes=2, labels=labels)
    shared = nn.Sequential(linear(6), nn.Unflatten(1, (3, 2)))
    heads = [linear(2) for _ in range(3)]
    for task, head in enumerate(heads):
        head.weight.data = shared[0].weight.data[2 * task : 2 * task + 2].clone()
        head.bias.data = shared[0].bias.data[2 * task : 2 * task + 2].clone()
    trainer = Trainer(shared, objective, torch.optim.SGD(shared.parameters(), lr=0.1))
    alone = Classify(SCHEMA, classes=2)
    trainers = [Trainer(h, alone, torch.optim.SGD(h.parameters(), lr=0.1)) for h in heads]
    for step in range(12):
        task = step % 3
        batch = batch_of([0, 1, 1, 0], step, task=task)
        wanted = trainers[task].step(batch)
        pushed = batch.fields["y"] + (2 * task if labels == "running" else 0)
        report = trainer.step(batch.with_fields({**batch.fields, "y": pushed}))
        torch.testing.assert_close(report.losses, wanted.losses)
        assert report.scores["accuracy"] == wanted.scores["accuracy"]
        assert report.scores["without_head"] == 0.0
    wanted_weights = torch.cat([head.weight for head in heads])
    torch.testing.assert_close(shared[0].weight, wanted_weights)


def test_tasks_beyond_the_last_head_share_it_and_are_told() -> None:
    objective = MultiHead(SCHEMA, heads=2, classes=2)
    outputs = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]])
    scores = objective.scores(outputs, batch_of([0], task=7))
    assert scores["accuracy"] == 1.0
    assert scores["without_head"] == 1.0
    assert objective.labels(batch_of([1], task=7)).tolist() == [3]


def test_a_field_may_name_the_head() -> None:
    schema = Schema.of({**{f.name: (f.dtype, f.shape) for f in SCHEMA.fields}, "h": ("int8", ())})
    objective = MultiHead(schema, heads=2, classes=2, head="h")
    assert objective.label_range == {"y": (0, 1), "h": (0, 1)}
    batch = batch_of([1, 1], task=5)
    batch = batch.with_fields({**batch.fields, "h": torch.tensor([0, 1], dtype=torch.int8)})
    assert objective.labels(batch).tolist() == [1, 3]
    outputs = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]] * 2)
    assert objective.scores(outputs, batch)["accuracy"] == 0.5


# nearest class mean


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_nearest_class_mean_against_numpy(decay: float) -> None:
    objective = NearestClassMean(SCHEMA, classes=4, features=3, temperature=0.7, decay=decay)
    model = linear(3)
    batches = [batch_of([0, 0, 1], 1), batch_of([1, 2, 0, 0], 2)]
    means: dict[int, Array] = {}
    counts: dict[int, int] = {}
    for batch in batches:
        learn(objective, model, batch)
        features = model(batch.fields["x"]).detach().double().numpy()
        for label in set(batch.fields["y"].tolist()):
            rows = features[batch.fields["y"].numpy() == label]
            kept = decay ** len(rows) if decay < 1 else counts.get(label, 0)
            weight = 1 - kept if decay < 1 else len(rows)
            old = means.get(label)
            means[label] = (
                rows.mean(0)
                if old is None
                else (kept * old + weight * rows.mean(0)) / (kept + weight)
            )
            counts[label] = counts.get(label, 0) + len(rows)
    # class 3 is new in this batch: its mean is that of its rows here
    batch = batch_of([0, 3, 2, 3, 1], 3)
    features = model(batch.fields["x"]).detach().double().numpy()
    means[3] = features[[1, 3]].mean(0)
    table = np.stack([means[label] for label in range(4)])
    logits = -((features[:, None] - table) ** 2).sum(2) / 0.7
    labels = batch.fields["y"].numpy()
    wanted = -log_softmax(logits)[np.arange(5), labels]
    outputs = objective.predict(model, batch)
    np.testing.assert_allclose(objective.losses(outputs, batch).detach(), wanted, rtol=1e-4)
    objective.observe(outputs.detach(), batch)
    hits = np.argmax(-((features[:, None] - objective.class_means.means.numpy()) ** 2).sum(2), 1)
    scores = objective.scores(objective.predict(model, batch), batch)
    assert float(scores["accuracy"]) == pytest.approx((hits == labels).mean())


def test_classes_that_never_came_have_no_share() -> None:
    objective = NearestClassMean(SCHEMA, classes=4, features=INPUTS)
    learn(objective, nn.Identity(), batch_of([0, 1]))
    far = Batch.of({"x": torch.zeros(1, INPUTS), "y": torch.tensor([1])})  # nearest to a mean of 0
    loss = objective.losses(objective.predict(nn.Identity(), far), far)
    means = objective.class_means.means[:2].double().numpy()
    wanted = -log_softmax(-(means**2).sum(1)[None])[0, 1]
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


# contrastive


def supervised_contrastive(z: Array, labels: NDArray[np.int64], temperature: float) -> Array:
    """Khosla et al. 2020, eq. 2, anchor by anchor."""
    losses = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        terms = [np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in positives]
        losses.append(-sum(terms) / max(len(positives), 1))
    return np.array(losses)


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    views=st.integers(1, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_contrastive_losses_against_the_paper(labels: list[int], views: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(len(labels), views, 4, generator=random, dtype=torch.float64)
    z = (z / z.norm(dim=2, keepdim=True)).requires_grad_()
    losses = contrastive_losses(z, torch.tensor(labels), 0.3)
    anchors = z.detach().transpose(0, 1).reshape(-1, 4).numpy()
    wanted = supervised_contrastive(anchors, np.tile(labels, views), 0.3)
    wanted = wanted.reshape(views, -1).mean(0)
    np.testing.assert_allclose(losses.detach(), wanted, rtol=1e-9, atol=1e-12)
    torch.autograd.backward(losses.sum())
    assert z.grad is not None
    assert bool(torch.isfinite(z.grad).all())


@pytest.mark.parametrize("cut", [True, False])
def test_the_gradient_of_the_head_is_cut_or_not(cut: bool) -> None:
    objective = Contrastive(
        SCHEMA, classes=3, features=4, projection=3, cut_gradient=cut, temperature=0.5
    )
    network = objective.network(linear(4))
    batch = batch_of([0, 1, 2])  # no positives: only the head has something to learn
    losses = objective.losses(objective.predict(network, batch), batch)
    torch.autograd.backward(losses.mean())
    of_model = network.get_submodule("model").weight.grad
    assert isinstance(of_model, Tensor)
    assert bool(of_model.any()) != cut
    of_head = network.get_submodule("head").weight.grad
    assert isinstance(of_head, Tensor)
    assert bool(of_head.any())


def test_contrastive_features_part_the_classes() -> None:
    objective = Contrastive(SCHEMA, classes=2, features=8, projection=4, decay=0.9)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = objective.network(nn.Sequential(linear(16), nn.ReLU(), nn.Linear(16, 8)))
    trainer = Trainer(network, objective, torch.optim.Adam(network.parameters(), lr=0.01))
    report = None
    for step in range(60):
        x = torch.randn(32, INPUTS, generator=torch.Generator().manual_seed(step))
        report = trainer.step(Batch.of({"x": x, "y": (x[:, 0] > x[:, 1].abs() - 0.5).long()}))
    assert report is not None
    assert report.scores["accuracy_nearest_mean"] > 0.8
    assert report.scores["accuracy"] > 0.8


# ridge


@pytest.mark.parametrize("expand", [0, 12])
def test_ridge_is_the_closed_form_on_all_data_in_any_order(expand: int) -> None:
    def make() -> Ridge:
        return Ridge(SCHEMA, classes=4, features=6, expand=expand, regularisation=0.01)

    first, second = make(), make()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = first.network(nn.Sequential(linear(6), nn.Tanh()))
    batch = batch_of([number % 4 for number in range(60)])
    by_class = batch.fields["y"].argsort(stable=True)
    learn(first, network, *(batch.select(by_class[i : i + 7], 7) for i in range(0, 60, 7)))
    learn(second, network, batch)
    network.eval()
    features = network(batch.fields["x"])[:, 4:].detach().double().numpy()
    phi = np.concatenate([features, np.ones((60, 1))], axis=1)
    gram = phi.T @ phi
    shrinkage = 0.01 * np.trace(gram) / len(gram) * np.eye(len(gram))
    targets = np.eye(4)[batch.fields["y"].numpy()]
    wanted = phi @ np.linalg.solve(gram + shrinkage, phi.T @ targets)
    for objective in (first, second):
        outputs = objective.predict(network, batch)[:, 4:8].detach()
        np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5)
        accuracy = objective.scores(objective.predict(network, batch), batch)["accuracy"]
        assert float(accuracy) == pytest.approx(
            (wanted.argmax(1) == batch.fields["y"].numpy()).mean()
        )


def test_sums_of_many_features_are_solved_as_one_whole() -> None:
    """More features than are summed at once; only one triangle of the matrix is kept."""
    random = torch.Generator().manual_seed(2)
    x = torch.randn(60, 1100, generator=random, dtype=torch.float64)
    y = torch.randn(60, 2, generator=random, dtype=torch.float64)
    fit = LeastSquares(1100, 2, regularisation=0.01, dtype=torch.float64)
    fit.count(x[:13], y[:13])
    fit.count(x[13:], y[13:])
    phi = np.concatenate([x.numpy(), np.ones((60, 1))], axis=1)
    kernel = phi @ phi.T  # the same solution by the 60 rows, which is a much smaller system
    shrinkage = 0.01 * np.trace(kernel) / 1101 * np.eye(60)
    wanted = kernel @ np.linalg.solve(kernel + shrinkage, y.numpy())
    np.testing.assert_allclose(fit.predict(x.float()), wanted, rtol=1e-4, atol=1e-4)


def test_ridge_counts_fresh_rows_only() -> None:
    one, other = (Ridge(SCHEMA, classes=4, features=INPUTS) for _ in range(2))
    network = one.network(nn.Identity())
    fresh, remembered = batch_of([0, 1, 2]), batch_of([3, 3], 1)
    learn(one, network, fresh.joined(remembered))
    learn(other, network, fresh)
    assert torch.equal(one.state_dict()["gram"], other.state_dict()["gram"])


def test_ridge_leaves_out_rows_without_features() -> None:
    one, other = (Ridge(SCHEMA, classes=4, features=INPUTS) for _ in range(2))
    network = one.network(nn.Identity())
    empty = Batch.of({"x": torch.zeros(2, INPUTS), "y": torch.tensor([0, 1])})
    learn(one, network, empty, batch_of([0, 1, 2]))
    learn(other, network, batch_of([0, 1, 2]))
    for key in ("gram", "moments"):
        assert torch.equal(one.state_dict()[key], other.state_dict()[key])


def test_ridge_answers_do_not_depend_on_who_evaluated_before() -> None:
    one, other = (Ridge(SCHEMA, classes=4, features=INPUTS) for _ in range(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = one.network(nn.Identity())
    for step in range(6):
        batch = batch_of([0, 1, 2, 3], step)
        one.predict(network.eval(), batch)
        network.train()
        assert torch.equal(one.predict(network, batch), other.predict(network, batch))
        learn(one, network, batch)
        learn(other, network, batch)


def test_a_trainer_learns_a_frozen_model_by_ridge_without_forgetting() -> None:
    """Class by class, and then as good as all at once."""
    objective = Ridge(SCHEMA, classes=3, features=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = objective.network(nn.Sequential(linear(64), nn.ReLU()))
    trainable = [p for p in network.parameters() if p.requires_grad]
    assert len(trainable) == 2  # the head alone
    trainer = Trainer(network, objective, torch.optim.SGD(trainable, lr=0.1))
    x = torch.randn(600, INPUTS, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    for label in range(3):
        rows = (y == label).nonzero().squeeze(1)
        for part in rows.split(20):
            trainer.step(Batch.of({"x": x[part], "y": y[part]}, task=label))
    scores = trainer.evaluate(Batch.of({"x": x, "y": y})).scores
    assert scores["accuracy"] > 0.85
    assert scores["accuracy_head"] < 0.6
