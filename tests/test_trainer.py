"""The step against a plain loop, its guards, its reports, and resuming bit by bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch, Column
from insitu.errors import InternalError, OperatorError
from insitu.optimization import build_optimizer
from insitu.report import PHASES
from insitu.schema import Schema
from insitu.strategies.base import Observation, Strategy
from insitu.trainer import NonFiniteLoss, Trainer
from insitu.trainer.gradients import clip, gradient_norm
from learning import Setup, assert_same, copied, make_batch, make_model, make_objective, stream


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: w.clone() for name, w in trainer.module.state_dict().items()}


# the step itself


def test_a_plain_step_is_the_plain_loop() -> None:
    trainer = Setup(normalise=False, schedule=None, optimizer="SGD").trainer()
    trainer.schedule = None
    trainer.optimizer.param_groups[0]["lr"] = 0.01
    reference = make_model(make_objective("classify"))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.01)
    for batch in stream("classify", 20):
        loss = nn.functional.cross_entropy(reference(batch.fields["x"]), batch.fields["y"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report = trainer.step(batch)
        torch.testing.assert_close(report.loss, loss.detach())
    for own, other in zip(trainer.module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("objective", ["classify", "regress", "reconstruct"])
def test_it_learns(objective: str) -> None:
    trainer = Setup(objective, schedule=None).trainer()
    losses = [trainer.step(batch).loss.item() for batch in stream(objective, 300, rows=32)]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


class Diary(Strategy):
    """Writes down its verbs; adds a penalty and doubles every gradient."""

    name = "diary"

    def __init__(self, extra: Batch, parameters: list[nn.Parameter]) -> None:
        self.extra = extra
        self.parameters = parameters
        self.verbs: list[str] = []
        self.seen: Observation | None = None
        self.trained: Batch | None = None

    def augment(self, batch: Batch) -> Batch:
        self.verbs.append("augment")
        return batch.joined(self.extra)

    def penalty(self, batch: Batch, outputs: Tensor) -> Tensor:
        self.verbs.append("penalty")
        self.trained = batch
        return sum((p.square().sum() for p in self.parameters), start=torch.zeros(()))

    def adjust_gradients(self) -> None:
        self.verbs.append("adjust")
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(2.0)

    def observe(self, observation: Observation) -> None:
        self.verbs.append("observe")
        self.seen = observation

    def end_task(self, task: int) -> None:
        self.verbs.append(f"end {task}")


def test_the_verbs_of_a_strategy_come_in_the_order_of_the_step() -> None:
    objective = make_objective("regress")
    model = make_model(objective)
    diary = Diary(make_batch("regress", 2, seed=9), list(model.parameters()))
    trainer = Trainer(
        model, objective, torch.optim.SGD(model.parameters(), lr=0.1), strategies=[diary]
    )
    batch = make_batch("regress", 3, seed=8)
    before = weights(trainer)
    report = trainer.step(batch)
    trainer.end_task(5)

    assert diary.verbs == ["augment", "penalty", "adjust", "observe", "end 5"]
    assert (report.fresh_samples, report.replayed_samples) == (3, 2)

    reference = make_model(objective)
    rows = batch.joined(diary.extra)
    per_row = (reference(rows.fields["x"].float()) - rows.fields["y"]).square().mean(dim=1)
    penalty = sum(p.square().sum() for p in reference.parameters())
    (per_row.mean() + penalty).backward()
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        expected = before[name] - 0.1 * 2.0 * parameter.grad
        torch.testing.assert_close(weights(trainer)[name], expected)

    assert report.loss_fresh is not None
    assert report.loss_replayed is not None
    torch.testing.assert_close(report.loss, per_row.mean().detach())
    torch.testing.assert_close(report.loss_fresh, per_row[:3].mean().detach())
    torch.testing.assert_close(report.loss_replayed, per_row[3:].mean().detach())
    torch.testing.assert_close(report.penalties["diary"], torch.as_tensor(penalty).detach())

    assert diary.seen is not None
    torch.testing.assert_close(diary.seen.losses, per_row.detach())
    assert diary.seen.step == 1
    assert not diary.seen.outputs.requires_grad


def test_strategies_train_normalised_rows_and_observe_raw_ones() -> None:
    extra = make_batch("regress", 2, seed=9)
    trainer = Setup("regress", further=lambda m: [Diary(extra, list(m.parameters()))]).trainer()
    diary = trainer.strategies["diary"]
    assert isinstance(diary, Diary)
    batch = make_batch("regress", 30, seed=8)
    trainer.step(batch)
    assert diary.seen is not None
    assert diary.trained is not None
    assert torch.equal(diary.seen.batch.fields["x"][:30], batch.fields["x"])
    fresh = diary.trained.fields["x"][:30]
    assert fresh.mean().abs() < 1e-5
    torch.testing.assert_close(fresh.std(dim=0, correction=0), torch.ones(6))


def test_scores_are_prequential() -> None:
    trainer = Setup().trainer()
    trainer.step(make_batch("classify", 64, seed=1))
    batch = make_batch("classify", 64, seed=2)
    before = trainer.evaluate(batch)
    again = Setup().trainer()
    again.step(make_batch("classify", 64, seed=1))
    report = again.step(batch)
    assert report.scores["accuracy"].item() == before.scores["accuracy"]
    assert report.loss.item() == pytest.approx(before.loss, rel=1e-6)


def test_a_report_tells_the_step() -> None:
    trainer = Setup().trainer()
    batch = make_batch("classify", 4, seed=0)
    batch.provenance[:, Column.PRODUCED_AT_NS] = torch.tensor([0, 2, 4, 6]) * 10**17 + 17 * 10**17
    trainer.step(make_batch("classify", 4, seed=3))
    rate = trainer.optimizer.param_groups[0]["lr"]
    report = trainer.step(batch)
    assert report.step == 2
    assert report.produced_at_ns == pytest.approx(20 * 10**17, rel=1e-12)
    assert report.learning_rate == rate != trainer.optimizer.param_groups[0]["lr"]
    assert tuple(report.phase_seconds) == PHASES
    assert report.phase_seconds["wait"] == 0.0
    assert report.phase_seconds["forward"] > 0.0
    assert report.loss_replayed is None
    assert not report.skipped
    assert report.gradient_norm is None, "it is taken at the first step, and then now and then"
    tensors = [report.loss, report.loss_fresh, *report.scores.values()]
    assert all(t is not None and t.shape == () and not t.requires_grad for t in tensors)


def test_inputs_are_not_modified() -> None:
    trainer = Setup(strategies=("replay", "online_ewc")).trainer(gradient_clip_norm=1.0)
    for batch in stream("classify", 5):
        fields, provenance = copied(dict(batch.fields)), batch.provenance.clone()
        trainer.step(batch)
        trainer.evaluate(batch)
        assert_same(dict(batch.fields), fields)
        assert torch.equal(batch.provenance, provenance)


def test_a_batch_of_one_sample_trains() -> None:
    trainer = Setup().trainer()
    for batch in stream("classify", 5, rows=1):
        assert math.isfinite(trainer.step(batch).loss.item())


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(InternalError, match="0 rows"):
        Setup().trainer().step(make_batch("classify", 0, seed=0))


# gradients


def test_the_gradient_norm_is_that_of_torch() -> None:
    gradients = [torch.randn(3, 4), torch.randn(5), torch.randn(())]
    expected = torch.nn.utils.get_total_norm(gradients)
    torch.testing.assert_close(gradient_norm(gradients), expected)
    assert gradient_norm([]).item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_element_makes_the_norm_not_finite(bad: float) -> None:
    gradients = [torch.ones(3), torch.tensor([0.0, bad])]
    assert not math.isfinite(gradient_norm(gradients).item())


@pytest.mark.parametrize(("largest", "expected"), [(1.0, 1.0), (100.0, 5.0)])
def test_clipping_shortens_and_never_lengthens(largest: float, expected: float) -> None:
    gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    clip(gradients, gradient_norm(gradients), largest)
    assert gradient_norm(gradients).item() == pytest.approx(expected, rel=1e-5)


def test_the_report_has_the_norm_before_clipping() -> None:
    setup = Setup("regress", normalise=False, schedule=None, optimizer="SGD")
    clipped, free = setup.trainer(gradient_clip_norm=0.01), setup.trainer()
    batch = make_batch("regress", 8, seed=0)
    before = weights(clipped)
    one, other = clipped.step(batch), free.step(batch)
    assert one.gradient_norm is not None
    assert other.gradient_norm is not None
    assert one.gradient_norm.item() == other.gradient_norm.item() > 0.01
    moved = torch.cat([(weights(clipped)[name] - w).flatten() for name, w in before.items()])
    assert moved.norm().item() == pytest.approx(0.01 * one.learning_rate, rel=1e-2)


# not finite


def poisoned(batch: Batch) -> Batch:
    x = batch.fields["x"].clone()
    x[0, 0] = math.nan
    return batch.with_fields({**batch.fields, "x": x})


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "RMSprop"])
@pytest.mark.parametrize("strategies", [(), ("replay", "online_ewc")])
def test_a_skipped_step_moves_nothing(optimizer: str, strategies: tuple[str, ...]) -> None:
    trainer = Setup(strategies=strategies, optimizer=optimizer).trainer(gradient_clip_norm=1.0)
    for batch in stream("classify", 5):
        trainer.step(batch)
    before = copied(trainer.state_dict())
    report = trainer.step(poisoned(make_batch("classify", 7, seed=77)))
    after = copied(trainer.state_dict())

    assert report.skipped
    assert report.step == 6
    assert math.isnan(report.loss.item())
    assert (after["steps"], after["skipped_steps"]) == (6, 1)
    for part in ("model", "optimizer", "schedule", "normaliser"):
        assert_same(before[part], after[part], part)
    if strategies:
        assert_same(before["strategies"]["online_ewc"], after["strategies"]["online_ewc"])
        assert len(trainer.strategies["replay"].memory) == 35  # type: ignore[attr-defined]
    assert not trainer.step(make_batch("classify", 7, seed=78)).skipped


class BadGradient(Strategy):
    """The loss is fine, the gradient is not."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters

    def adjust_gradients(self) -> None:
        assert self.parameters[0].grad is not None
        self.parameters[0].grad.view(-1)[0] = math.inf


def test_a_gradient_that_is_not_finite_is_refused_too() -> None:
    setup = Setup(optimizer="SGD", further=lambda m: [BadGradient(list(m.parameters()))])
    trainer = setup.trainer()
    before = weights(trainer)
    report = trainer.step(make_batch("classify", 7, seed=0))
    assert report.skipped
    assert math.isfinite(report.loss.item())
    assert report.gradient_norm is not None
    assert report.gradient_norm.item() == math.inf
    assert_same(before, weights(trainer))


class RootOfDistance(nn.Module):
    """Its value at 0 is fine, its slope is not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distance: torch.Tensor = self.layers(x) - self.layers(x).detach()
        return distance.abs().sqrt()


def test_a_bad_slope_is_seen_at_every_step_by_a_witness_in_every_layer() -> None:
    setup = Setup(optimizer="SGD", normalise=False)
    trainer = setup.trainer()
    module = RootOfDistance()
    bad = Trainer(module, trainer.objective, torch.optim.SGD(module.parameters(), lr=0.1))
    before = weights(bad)
    for seed in range(3):  # the norm over all gradients is taken at the first of them only
        report = bad.step(make_batch("classify", 7, seed=seed))
        assert report.skipped
        assert math.isfinite(report.loss.item())
    assert_same(before, weights(bad))


@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_stop_and_rollback_raise_before_the_update(policy: str) -> None:
    trainer = Setup().trainer(non_finite=policy)
    trainer.step(make_batch("classify", 7, seed=0))
    before = copied(trainer.state_dict())
    with pytest.raises(NonFiniteLoss, match="step 2: the loss is nan") as caught:
        trainer.step(poisoned(make_batch("classify", 7, seed=1)))
    assert (caught.value.step, caught.value.policy) == (2, policy)
    assert math.isnan(caught.value.loss)
    assert_same(before, copied(trainer.state_dict()))


# evaluation


def test_evaluation_in_chunks_is_the_evaluation_of_all_rows() -> None:
    trainer = Setup("regress", dropout=0.5).trainer()
    for batch in stream("regress", 3):
        trainer.step(batch)
    before = copied(trainer.state_dict())
    probes = make_batch("regress", 23, seed=5)
    whole, parts = trainer.evaluate(probes), trainer.evaluate(probes, rows_at_once=4)
    assert whole.samples == parts.samples == 23
    assert whole.figures() == pytest.approx(parts.figures(), rel=1e-5)
    assert_same(before, copied(trainer.state_dict()))
    assert all(part.training for part in trainer.module.modules())


def test_evaluation_of_no_rows_is_not_a_number() -> None:
    evaluation = Setup().trainer().evaluate(make_batch("classify", 0, seed=0))
    assert evaluation.samples == 0
    assert math.isnan(evaluation.loss)


# state


def run(trainer: Trainer, objective: str, tasks: range) -> list[float]:
    losses = []
    for task in tasks:
        losses += [trainer.step(batch).loss.item() for batch in stream(objective, 4, task=task)]
        trainer.end_task(task)
    return losses


@pytest.mark.parametrize("objective", ["classify", "regress", "reconstruct"])
@pytest.mark.parametrize(
    "strategies",
    [(), ("replay",), ("online_ewc",), ("replay", "online_ewc"), ("online_ewc", "replay")],
    ids="+".join,
)
def test_a_resumed_run_is_bit_identical(objective: str, strategies: tuple[str, ...]) -> None:
    setup = Setup(objective, strategies, dropout=0.2)
    torch.manual_seed(5)
    whole = setup.trainer(gradient_clip_norm=1.0)
    run(whole, objective, range(2))
    saved = copied(whole.state_dict())
    expected = run(whole, objective, range(2, 4))

    torch.manual_seed(6)
    resumed = replace(setup, seed=99).trainer(gradient_clip_norm=1.0)
    resumed.step(make_batch(objective, 3, seed=123))
    resumed.load_state_dict(saved)
    assert run(resumed, objective, range(2, 4)) == expected
    assert_same(copied(resumed.state_dict()), copied(whole.state_dict()))


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        trainer = Setup(strategies=("replay", "online_ewc"), dropout=0.2).trainer()
        runs.append(run(trainer, "classify", range(3)))
    assert runs[0] == runs[1]


def test_loading_copies() -> None:
    trainer = Setup(strategies=("replay", "online_ewc")).trainer()
    run(trainer, "classify", range(2))
    saved = copied(trainer.state_dict())
    kept = copied(saved)
    trainer.load_state_dict(saved)
    run(trainer, "classify", range(2, 3))
    assert_same(saved, kept)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Setup(strategies=("replay",)), "strategies holds online_ewc"),
        (Setup(strategies=("online_ewc",), normalise=False), "the state has a normaliser"),
        (Setup("regress", ("online_ewc",)), "the weights do not fit.*size mismatch"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name(other: Setup, message: str) -> None:
    saved = Setup(strategies=("online_ewc",)).trainer().state_dict()
    with pytest.raises(OperatorError, match=message):
        other.trainer().load_state_dict(saved)


def test_a_state_with_a_missing_part_is_refused_by_name() -> None:
    trainer = Setup().trainer()
    saved = trainer.state_dict()
    del saved["optimizer"]
    with pytest.raises(OperatorError, match="the state of the trainer holds"):
        trainer.load_state_dict(saved)


# names, devices, precision


def test_two_strategies_of_one_name_are_told_apart() -> None:
    trainer = Setup(strategies=("der", "replay", "der")).trainer()
    assert list(trainer.strategies) == ["der", "replay", "der_2"]
    assert [s.name for s in trainer.strategies.values()] == list(trainer.strategies)
    run(trainer, "classify", range(2))
    report = trainer.step(make_batch("classify", 7, seed=0))
    assert set(report.penalties) == {"der", "der_2"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: {"x": fields["x"]}, "no field 'y'"),
        (lambda fields: {"y": fields["y"]}, "no field 'x'"),
        (lambda fields: {**fields, "y": fields["y"] * 0 + 9}, "labels from 9 to 9"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    change: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]], message: str
) -> None:
    trainer, other = Setup().trainer(), Setup().trainer()
    good = make_batch("classify", 5, seed=0)
    with pytest.raises(OperatorError, match=message):
        trainer.step(good.with_fields(change(good.fields)))
    for each in (trainer, other):
        each.step(good)
    assert_same(copied(trainer.state_dict()), copied(other.state_dict()))


def test_a_model_on_another_device_is_refused() -> None:
    objective = make_objective("classify")
    model = make_model(objective)
    with pytest.raises(OperatorError, match="meta"):
        Trainer(model, objective, torch.optim.SGD(model.parameters()), device="meta")


def test_a_model_without_parameters_is_refused() -> None:
    model = make_model(make_objective("classify"))
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(OperatorError, match="no trainable parameter"):
        Trainer(nn.Identity(), make_objective("classify"), optimizer)


def test_a_compiled_wrapper_keeps_the_names_of_the_module_inside() -> None:
    objective = make_objective("classify")
    model = make_model(objective)
    wrapped = torch.compile(model, backend="eager")
    optimizer = build_optimizer("AdamW", model.named_parameters(), {})
    trainer = Trainer(wrapped, objective, optimizer)
    trainer.step(make_batch("classify", 7, seed=0))
    assert set(trainer.state_dict()["model"]) == set(make_model(objective).state_dict())
    torch._dynamo.reset()


def test_bfloat16_runs_the_model_in_bfloat16_and_learns_in_float32() -> None:
    trainer = Setup("regress").trainer(precision="bfloat16")
    seen: list[torch.dtype] = []
    trainer.module[0].register_forward_hook(  # type: ignore[index, operator, union-attr]
        lambda module, args, output: seen.append(output.dtype)
    )
    losses = [trainer.step(batch).loss for batch in stream("regress", 200, rows=32)]
    assert set(seen) == {torch.bfloat16}
    assert losses[0].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in trainer.module.parameters())
    assert sum(losses[-20:]).item() < 0.8 * sum(losses[:20]).item()  # type: ignore[union-attr]


def test_frozen_parameters_stay() -> None:
    objective = make_objective("classify")
    model = make_model(objective)
    first = next(model.parameters())
    first.requires_grad_(False)
    trainer = Trainer(model, objective, torch.optim.AdamW(model.parameters(), weight_decay=0.1))
    before = first.clone()
    trainer.step(make_batch("classify", 7, seed=0))
    assert torch.equal(first, before)


def test_outputs_of_another_shape_are_refused() -> None:
    schema = Schema.of({"x": ("float32", (6,)), "y": ("float32", (3,))})
    model = nn.Linear(6, 1)
    objective = type(make_objective("regress"))(schema)
    trainer = Trainer(model, objective, torch.optim.SGD(model.parameters()))
    with pytest.raises(OperatorError, match="outputs of shape"):
        trainer.step(make_batch("regress", 4, seed=0))


def test_warm_up_and_schedule_move_with_updates_only() -> None:
    trainer = Setup().trainer()
    rates = [trainer.step(batch).learning_rate for batch in stream("classify", 5)]
    assert all(a < b for a, b in pairwise(rates[:3]))
    assert rates[2] > rates[3] > rates[4]
    trainer.step(poisoned(make_batch("classify", 7, seed=0)))
    last = trainer.step(make_batch("classify", 7, seed=1)).learning_rate
    assert last == pytest.approx(rates[4] * 0.99)


def test_several_updates_on_a_batch_are_as_many_whole_updates() -> None:
    once = Setup(strategies=("online_ewc",), normalise=False).trainer()
    twice = Setup(strategies=("online_ewc",), normalise=False).trainer(updates_per_batch=2)
    batch = make_batch("classify", 7, seed=8)
    first = once.step(batch)
    once.step(batch)
    report = twice.step(batch)
    assert (twice.steps, report.step, report.fresh_samples) == (1, 1, 7)
    assert_same(weights(once), weights(twice))
    assert torch.equal(report.losses, first.losses), "the report is of rows that were never trained"


def test_replay_draws_anew_for_every_update_and_remembers_a_batch_once() -> None:
    trainer = Setup(strategies=("replay",)).trainer(updates_per_batch=3)
    memory = trainer.strategies["replay"].memory  # type: ignore[attr-defined]
    trainer.step(make_batch("classify", 7, seed=8))
    assert len(memory) == 7
    assert memory.times_replayed.sum() == 0
    report = trainer.step(make_batch("classify", 7, seed=9))
    assert len(memory) == 14
    assert memory.times_replayed.sum() == report.replayed_samples == 3 * 5


def test_no_updates_are_refused() -> None:
    with pytest.raises(OperatorError, match="updates_per_batch is 0"):
        Setup().trainer(updates_per_batch=0)


@pytest.mark.parametrize("task", ["flow", -1, 1.0, None, True])
def test_a_task_that_is_no_index_is_refused(task: Any) -> None:
    with pytest.raises(OperatorError, match="the task that ended is"):
        Setup(strategies=("online_ewc",)).trainer().end_task(task)
