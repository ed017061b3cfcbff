"""A Hebbian network in a trainer: strategies, objectives, stops, skipped steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from hebbian import RULES
from hebbian_network import (
    CLASSES,
    CONVOLUTION,
    DENSE,
    SHAPE,
    STRATEGIES,
    batch,
    counts,
    fields,
    layers,
    make,
    objective,
    plasticity,
    trainer,
)
from insitu.analysis.learning_rate_range import learning_rate_range
from insitu.batch import Batch
from insitu.component import catalogue
from insitu.detection import DriftWatch
from insitu.detection.winner_divergence import WinnerDivergence
from insitu.errors import OperatorError
from insitu.layers.update import HebbianUpdate
from insitu.objectives.base import Objective
from insitu.schema import Schema
from insitu.trainer import Trainer
from learning import assert_same, copied


@pytest.mark.parametrize("options", [{}, {"order": "successive", "plastic_updates": 5}])
@pytest.mark.parametrize("at", [4, 5, 8])
def test_a_resumed_run_is_bit_identical(options: dict[str, Any], at: int) -> None:
    strategies = ("replay", "online_ewc")
    whole = trainer(strategies=strategies, options=options)
    halves = trainer(strategies=strategies, options=options)
    for number in range(at):
        whole.step(batch(number))
        halves.step(batch(number))
    saved = copied(halves.state_dict())
    resumed = trainer(strategies=strategies, options=options, seed=9)
    resumed.load_state_dict(saved)
    assert plasticity(resumed.module) == plasticity(whole.module)
    for number in range(at, at + 5):
        whole.step(batch(number))
    state = copied(whole.state_dict())
    resumed.load_state_dict(saved)  # which sets torch's own generators, too
    for number in range(at, at + 5):
        resumed.step(batch(number))
    assert_same(copied(resumed.state_dict()), state)
    assert "model" in state
    assert any("learning_rates_in_force" in name for name in state["model"])


@pytest.mark.parametrize("at", [2, 3, 4, 6])
def test_a_resumed_run_freezes_when_the_other_does(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MIR looks at candidates before a step: with blocks and statistics that are frozen by then."""
    monkeypatch.setitem(STRATEGIES, "kernel_plasticity", {"top": 2, "standardisation": "frozen"})
    names = ("mir", "kernel_plasticity", "a_gem")
    successive = {"order": "successive", "plastic_updates": 3}
    whole, resumed = (trainer(strategies=names, options=successive, seed=s) for s in (0, 9))
    for number in range(at):
        whole.step(batch(number, rows=4))
    whole.end_task(0)
    saved = copied(whole.state_dict())
    for number in range(at, at + 3):
        whole.step(batch(number, rows=4))
    state = copied(whole.state_dict())
    resumed.load_state_dict(saved)  # which sets torch's own generators, too
    for number in range(at, at + 3):
        resumed.step(batch(number, rows=4))
    assert_same(copied(resumed.state_dict()), state)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rates", ["adaptive", "linear"])
def test_the_first_step_after_a_load_is_that_of_the_run_that_went_on(
    name: str, rates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every rule, with modulated gains: weights, norms, rates, recorders, to the bit."""
    cap = {"mode": "cap", "top": 2, "third_factor": {"source": "surprise"}}
    monkeypatch.setitem(STRATEGIES, "kernel_plasticity", cap)
    rule = {"name": name, "options": RULES[name]}
    fall = {"rates": "linear", "last_update": 20} if rates == "linear" else {}
    blocks = [{**block, "rule": rule, "radius": 2.0, **fall} for block in (CONVOLUTION, DENSE)]
    names = ("replay", "kernel_plasticity")
    whole, resumed = (
        trainer(strategies=names, options={"blocks": blocks}, seed=seed) for seed in (0, 9)
    )
    learn_tasks(whole, range(5))
    saved = copied(whole.state_dict())
    learn_tasks(whole, range(5, 6))  # the first step, and the end of a task behind it
    state = copied(whole.state_dict())
    assert not torch.equal(
        state["model"]["blocks.0.layer.weight"], saved["model"]["blocks.0.layer.weight"]
    )
    resumed.load_state_dict(saved)
    learn_tasks(resumed, range(5, 6))
    assert_same(copied(resumed.state_dict()), state)


@pytest.mark.parametrize("at", [2, 5])
def test_all_parts_together_resume_bit_identically(at: int) -> None:
    """Blocks one after the other, a teacher, references, heads, winners, three updates a batch."""
    whole, resumed = everything(0), everything(5)
    learn_tasks(whole, range(at))
    saved = copied(whole.state_dict())
    learn_tasks(whole, range(at, at + 4))
    state = copied(whole.state_dict())
    resumed.load_state_dict(saved)
    learn_tasks(resumed, range(at, at + 4))
    assert_same(copied(resumed.state_dict()), state)


def test_the_range_test_leaves_no_trace_in_a_hebbian_network() -> None:
    made = everything(0)
    learn_tasks(made, range(2))
    state, modes = copied(made.state_dict()), training_modes(made.module)
    learning_rate_range(made, [batch(50 + number) for number in range(12)])
    assert_same(copied(made.state_dict()), state)
    assert training_modes(made.module) == modes


def training_modes(module: nn.Module) -> list[Any]:
    return [(part.training, getattr(part, "plastic", None)) for part in module.modules()]


def everything(seed: int) -> Trainer:
    torch.manual_seed(seed)
    made = trainer(
        strategies=("replay", "kernel_plasticity", "lwf", "a_gem"),
        goal=objective("task_heads", heads=3, features=11),
        options={"order": "successive", "plastic_updates": 7},
        updates_per_batch=3,
    )
    detector = WinnerDivergence(made.module, window_steps=2, reference_blocks=2)
    made.watch = DriftWatch([(detector, 0)])
    return made


def learn_tasks(made: Trainer, numbers: range) -> None:
    for number in numbers:
        made.step(batch(number, task=number // 3))
        if number % 3 == 2:
            made.end_task(number // 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_layers_move_once_a_step_whatever_else_runs_forward(strategy: str) -> None:
    """A-GEM's reference, MIR's candidates and a Fisher information pass through, and teach not."""
    strategies = (strategy,) if strategy != "online_ewc" else ("replay", strategy)
    made = trainer(strategies=strategies)
    tracked = made.module.blocks[0].standardisation  # type: ignore[union-attr,index]
    passes: list[int] = []
    made.module.register_forward_hook(lambda *_: passes.append(1))
    for task in (0, 1):
        for number in range(4):
            made.step(batch(number + 10 * task, task=task))
        made.end_task(task)
    assert counts(made.module) == [8, 8]
    assert int(tracked.num_batches_tracked) == 8  # type: ignore[union-attr]
    assert (len(passes) > 8) == (strategy in ("a_gem", "lwf", "mir", "online_ewc"))
    grads = [p.grad is not None for p in made.module.parameters()]
    assert grads == [p.requires_grad for p in made.module.parameters()]


def test_a_gem_leaves_the_kernels_to_the_hebbian_rule() -> None:
    """What the kernels become does not depend on A-GEM, which adds no rows to the step."""
    plain, projected = trainer(), trainer(strategies=("a_gem",))
    for task in (0, 1):
        for number in range(4):
            for each in (plain, projected):
                each.step(batch(number + 10 * task, task=task))
        projected.end_task(task)
        plain.end_task(task)
    for mine, yours in zip(layers(plain.module), layers(projected.module), strict=True):
        assert torch.equal(mine.weight, yours.weight)


def test_a_skipped_step_leaves_kernels_rates_and_counts() -> None:
    made = trainer()
    made.step(batch(0))
    before = copied(made.module.state_dict())
    bad = batch(1)
    bad.fields["x"][0, 0, 0, 0] = math.nan
    assert made.step(bad).skipped
    for name, value in before.items():
        if "standardisation" not in name:
            assert torch.equal(made.module.state_dict()[name], value), name
    assert not made.step(batch(2)).skipped
    assert counts(made.module) == [2, 2]


def test_nothing_recorded_of_a_refused_batch_is_left() -> None:
    made = trainer()
    made.step(batch(0))
    bad = batch(1)
    bad.fields["y"][0] = CLASSES
    with pytest.raises(OperatorError):
        made.step(bad)
    before = copied(made.module.state_dict())
    HebbianUpdate(made.module, record_always=False).step()
    assert_same(copied(made.module.state_dict()), before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns_in_a_trainer(precision: Any) -> None:
    made = trainer(strategies=("replay",), precision=precision)
    for number in range(60):
        made.step(batch(number, rows=10))
    held_out = made.evaluate(batch(999, rows=200))
    assert held_out.scores["accuracy"] > 0.7  # chance is a third
    assert all(bool(layer.weight.isfinite().all()) for layer in layers(made.module))


@pytest.mark.parametrize("name", ["ridge", "nearest_class_mean"])
def test_objectives_on_the_features_themselves(name: str) -> None:
    made = trainer(goal=objective(name, features=11), learning_rate=0.01)
    for number in range(60):
        made.step(batch(number, rows=10))
    assert counts(made.module) == [60, 60]
    held_out = made.evaluate(batch(999, rows=200))
    assert held_out.scores["accuracy"] > 0.7


def test_a_supervised_last_layer_is_taught_by_the_labels() -> None:
    rule = {"name": "supervised_soft"}
    taught = {"kernels": CLASSES, "rule": rule, "eta": 0.1}
    options = {"blocks": [CONVOLUTION, taught], "width": 2.0, "head": "scale"}
    made = trainer(options=options, learning_rate=0.001)
    for number in range(80):
        made.step(batch(number, rows=10))
    assert [len(layer.norms) for layer in layers(made.module)] == [14, CLASSES]
    assert made.evaluate(batch(999, rows=200)).scores["accuracy"] > 0.9
    assert 0.8 < layers(made.module)[1].norms.min() <= layers(made.module)[1].norms.max() < 1.5


def test_fields_are_reconstructed_from_their_features() -> None:
    schema = Schema.of({"x": ("float32", SHAPE)})
    goal: Objective = catalogue("insitu.objectives")["reconstruct"].build({}, {"schema": schema})
    model = make(SHAPE, SHAPE, blocks=[{**CONVOLUTION, "kernels": 24}], padding_mode="circular")
    made = Trainer(model, goal, torch.optim.Adam(model.parameters(), lr=0.02))
    losses = [
        float(made.step(Batch.of({"x": fields(8, n) + 1.0})).losses.mean()) for n in range(60)
    ]
    assert losses[-1] < 0.2 * losses[0]


def test_it_traces_while_it_learns() -> None:
    """What `torch.compile` needs: no graph break, and one graph for all steps."""
    model, plain = make(), make()
    traced = torch.compile(model, backend="eager", fullgraph=True)
    updates = HebbianUpdate(model), HebbianUpdate(plain)
    for number in range(3):
        torch.testing.assert_close(traced(fields(4, number)), plain(fields(4, number)))
        for update in updates:
            update.step()
    for mine, yours in zip(layers(model), layers(plain), strict=True):
        torch.testing.assert_close(mine.weight, yours.weight)
    torch.compiler.reset()
