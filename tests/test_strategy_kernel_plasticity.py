"""Kernel plasticity against plain sums in Python, and what its modes promise."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.config import check_config
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.kernel_plasticity import KernelPlasticity
from insitu.layers.learning_rates import ConstantRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.rules.softhebb import SoftHebb
from insitu.layers.update import HebbianUpdate
from insitu.layers.watching import Watching
from insitu.objectives.classify import Classify
from insitu.schema import Schema
from insitu.strategies.kernel_plasticity import KernelPlasticityStrategy
from insitu.strategies.third_factor import ThirdFactor, ThirdFactorOptions
from insitu.trainer import Trainer
from insitu_service.learning.building import build_trainer
from learning import (
    LABELLED,
    Setup,
    assert_same,
    copied,
    generator,
    make_batch,
    make_model,
    make_objective,
)

INPUTS, KERNELS = 5, 6


def made(**options: Any) -> tuple[HebbianLinear, KernelPlasticity]:
    layer = HebbianLinear(
        INPUTS, KERNELS, SoftHebb(), ConstantRates(0.1), radius=2.0, generator=generator(3)
    )
    layer.double()
    return layer, KernelPlasticity(layer, **options).double()


def step(layer: HebbianLayer, part: KernelPlasticity, rows: Tensor) -> Tensor:
    """One update; gives how far the weights went."""
    before = layer.weight.detach().clone()
    part.watch(layer(rows))
    part.modulate()
    layer.apply_update()
    part.record()
    return layer.weight.detach() - before


def rows_of(seed: int, rows: int = 8) -> Tensor:
    return torch.randn(rows, INPUTS, generator=generator(seed), dtype=torch.float64)


def test_importance_and_thresholds_are_those_of_plain_sums() -> None:
    layer, part = made(mode="off", top=2, deviations=1.5, retention=0.5, protected_share=0.5)
    importance, theta = [0.0] * KERNELS, [0.0] * KERNELS
    for task in range(3):
        changes: list[list[float]] = []
        hits, images = [0] * KERNELS, 0
        for number in range(4):
            rows = rows_of(10 * task + number) + task
            potentials = rows @ layer.weight.detach().T
            for answers in potentials.tolist():
                ranked = sorted(range(KERNELS), key=lambda j, a=answers: -a[j])  # type: ignore[misc]
                for kernel in ranked[:2]:
                    hits[kernel] += 1
                images += 1
            went = step(layer, part, rows)
            changes.append(went.abs().mean(dim=1).tolist())
        part.end_task()
        for j in range(KERNELS):
            mean = sum(c[j] for c in changes) / 4
            deviation = math.sqrt(sum((c[j] - mean) ** 2 for c in changes) / 4)
            share = hits[j] / images
            if share > 0.5 * importance[j] or theta[j] == 0.0:
                theta[j] = mean + 1.5 * deviation
            importance[j] = max(0.5 * importance[j], share)
        assert part.importance.tolist() == pytest.approx(importance, rel=1e-12)
        assert part.theta.tolist() == pytest.approx(theta, rel=1e-9)
        best = sorted(range(KERNELS), key=lambda j: -importance[j])[:3]
        assert part.protected.nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("mode", ["threshold", "cap", "soft", "lock", "off"])
def test_gains_are_those_of_the_page(mode: str) -> None:
    options = {"damped": 0.3, "boosted": 1.7, "strength": 4.0, "top": 2}
    layer, part = made(mode=mode, **options)
    for number in range(3):
        step(layer, part, rows_of(number))
    part.end_task()
    part.theta.mul_(0.7)  # so that some steps exceed theirs
    layer(rows_of(50))
    raw = (layer.recorded_direction * 0.1).abs().mean(dim=1).tolist()
    part.modulate(2.0)
    assert layer.gain is not None
    held = part.protected.tolist()
    above = [h and a > t for h, a, t in zip(held, raw, part.theta.tolist(), strict=True)]
    assert any(above)
    assert not all(held)
    for j in range(KERNELS):
        theta, importance = part.theta[j].item(), part.importance[j].item()
        expected = {
            "off": 1.0,
            "lock": 0.0 if held[j] else 1.0,
            "soft": 1.0 / (1.0 + 4.0 * importance),
            "cap": min(1.0, 0.3 * theta / raw[j]) if held[j] else 1.0,
            "threshold": 0.3 if above[j] else 1.0 if held[j] else 1.7,
        }[mode]
        assert layer.gain[j].item() == pytest.approx(2.0 * expected, rel=1e-6)


@given(
    seed=st.integers(0, 2**16),
    damped=st.floats(0.0, 2.0),
    scale=st.floats(1e-3, 1e3),
)
def test_under_cap_no_step_of_a_protected_kernel_exceeds_its_bound(
    seed: int, damped: float, scale: float
) -> None:
    layer, part = made(mode="cap", damped=damped, top=2, protected_share=1.0)
    for number in range(3):
        step(layer, part, rows_of(seed + number))
    part.end_task()
    for number in range(3):
        went = step(layer, part, scale * rows_of(seed + 100 + number)).abs().mean(dim=1)
        bound = damped * part.theta * (1 + 1e-9) + 1e-12
        assert bool((went <= bound)[part.protected].all())


def test_under_lock_protected_kernels_stay_and_others_go_on() -> None:
    layer, part = made(mode="lock", top=1, protected_share=0.5)
    step(layer, part, rows_of(0))
    part.end_task()
    went = step(layer, part, rows_of(1))
    assert bool(part.protected.any())
    assert torch.equal(went[part.protected], torch.zeros_like(went[part.protected]))
    assert bool((went[~part.protected].abs().sum(dim=1) > 0).all())


def test_kernels_that_were_never_used_are_free() -> None:
    layer, part = made(mode="lock", top=1, protected_share=1.0)
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.weight[0, 0] = -100.0
        layer.refresh()
    step(layer, part, rows_of(0).abs())
    part.end_task()
    assert not part.protected[0]


def test_neighbours_share_importance_when_it_spreads() -> None:
    _, part = made(top=1, spread=0.5, protected_share=0.5, retention=1.0)
    part.importance.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.2, 0.0]))
    part.end_task()
    assert part.protected.tolist() == [False, True, True, True, False, False]


def test_a_step_that_recorded_nothing_does_not_count() -> None:
    layer, part = made(top=1)
    step(layer, part, rows_of(0))
    counted = part.steps.item(), part.change_mean.clone()
    layer(rows_of(1) * float("nan"))
    part.modulate()
    layer.apply_update()
    part.record()
    assert part.steps.item() == counted[0]
    assert torch.equal(part.change_mean, counted[1])


def test_more_top_kernels_than_there_are_is_refused() -> None:
    with pytest.raises(OperatorError, match="top 7 kernels"):
        made(top=7)


# in the trainer


def hebbian_trainer(**options: Any) -> Trainer:
    objective = Classify(LABELLED, classes=4)
    torch.manual_seed(0)
    block = HebbianBlock(HebbianLinear(6, 8, SoftHebb(), ConstantRates(0.05), radius=5.0))
    model = nn.Sequential(block, nn.Linear(8, 4))
    criterion = Criterion(model, objective)
    strategy = KernelPlasticityStrategy(criterion, torch.device("cpu"), **{"top": 2, **options})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return Trainer(model, objective, optimizer, strategies=[strategy])


def layer_of(trainer: Trainer) -> HebbianLayer:
    return next(m for m in trainer.module.modules() if isinstance(m, HebbianLayer))


def learn(trainer: Trainer, tasks: range) -> None:
    for task in tasks:
        for number in range(5):
            trainer.step(make_batch("classify", 8, seed=100 * task + number, task=task))
        trainer.end_task(task)


def drift(mode: str) -> float:
    trainer = hebbian_trainer(mode=mode, protected_share=1.0, damped=0.1)
    learn(trainer, range(1))
    before = layer_of(trainer).weight.detach().clone()
    learn(trainer, range(1, 2))
    return (layer_of(trainer).weight - before).norm().item()


def test_protection_slows_what_the_second_task_changes() -> None:
    assert drift("lock") < drift("cap") < 0.5 * drift("off")


def test_hits_are_counted_behind_the_triangle_and_only_for_rows_that_are_learned() -> None:
    trainer = hebbian_trainer()
    part = next(iter(trainer.strategies.values())).parts["0.layer"]  # type: ignore[attr-defined]
    batch = make_batch("classify", 8, seed=0)
    trainer.step(batch)
    trainer.evaluate(batch)
    trainer.criterion.gradient(batch)
    assert part.images.item() == 8
    assert part.hits.sum().item() == 16


def test_a_resumed_run_is_bit_identical() -> None:
    first = hebbian_trainer(mode="threshold", boosted=1.5)
    learn(first, range(2))
    second = hebbian_trainer(mode="threshold", boosted=1.5)
    second.load_state_dict(copied(first.state_dict()))
    for trainer in (first, second):
        learn(trainer, range(2, 4))
    assert_same(copied(first.state_dict()), copied(second.state_dict()))


def test_standardisation_freezes_at_the_end_of_the_first_task() -> None:
    trainer = hebbian_trainer(standardisation="frozen")
    learn(trainer, range(1))
    frozen = copied(trainer.state_dict()["model"])["0.standardisation.running_mean"]
    learn(trainer, range(1, 2))
    now = trainer.state_dict()["model"]["0.standardisation.running_mean"]
    assert torch.equal(now, frozen)
    other = hebbian_trainer(standardisation="frozen")
    other.load_state_dict(copied(trainer.state_dict()))
    learn(other, range(2, 3))
    now = other.state_dict()["model"]["0.standardisation.running_mean"]
    assert torch.equal(now, frozen)


def test_a_model_without_hebbian_layers_is_refused() -> None:
    objective = make_objective("classify")
    criterion = Criterion(make_model(objective), objective)
    with pytest.raises(OperatorError, match="the model has none"):
        KernelPlasticityStrategy(criterion, torch.device("cpu"))


def test_a_task_without_rows_consolidates_nothing() -> None:
    trainer = Setup(strategies=("kernel_plasticity",)).trainer()
    learn(trainer, range(1))
    strategy = trainer.strategies["kernel_plasticity"]
    state = copied(strategy.state_dict())
    trainer.end_task(0)
    trainer.end_task(7)
    assert_same(copied(strategy.state_dict()), state)


def test_tasks_that_end_together_are_consolidated_once() -> None:
    one, two = hebbian_trainer(retention=0.5), hebbian_trainer(retention=0.5)
    for number in range(6):
        one.step(make_batch("classify", 8, seed=number, task=0))
        two.step(make_batch("classify", 8, seed=number, task=number % 2))
    one.end_task(0)
    two.declare_boundary()
    states = [copied(each.strategies["kernel_plasticity"].state_dict()) for each in (one, two)]
    assert_same(states[0], states[1])
    assert states[1]["layers"]["0.layer"]["last_moved_mean"].sum() > 0.0


def test_copies_of_the_model_are_not_watched() -> None:
    trainer = hebbian_trainer()
    part = trainer.strategies["kernel_plasticity"].parts["0.layer"]  # type: ignore[attr-defined]
    twin = copy.deepcopy(trainer.module)
    trainer.step(make_batch("classify", 8, seed=0))
    before = copied(part.state_dict())
    HebbianUpdate(twin)  # records always
    twin.train()(torch.rand(3, 6))
    part.record()
    assert torch.equal(part.images, before["images"])
    hooks = [hook for module in twin.modules() for hook in module._forward_hooks.values()]
    assert hooks
    assert all(isinstance(hook, Watching) and hook._watcher is None for hook in hooks)


# the third factor


def factor(source: str, **options: Any) -> ThirdFactor:
    return ThirdFactor(ThirdFactorOptions(source=source, **options), torch.device("cpu"))


def of_step(source: ThirdFactor, batch: Batch, losses: Tensor) -> float:
    """m of a step that is made."""
    value = source.of(batch, losses).item()
    source.count()
    return value


def mixed(fresh: Tensor, replayed: Tensor) -> Batch:
    batch = Batch.of({"x": fresh})
    return batch.joined(Batch.of({"x": replayed})) if len(replayed) else batch


def test_surprise_is_the_loss_by_its_running_mean() -> None:
    surprise, batch = factor("surprise", decay=0.5, most=10.0), Batch.of({"x": torch.zeros(2, 1)})
    found = [of_step(surprise, batch, torch.full((2,), loss)) for loss in (2.0, 4.0, 3.0, 60.0)]
    assert found == [1.0, 2.0, 1.0, 10.0]


def test_what_is_not_finite_counts_as_one_and_is_forgotten() -> None:
    surprise, batch = factor("surprise", decay=0.5), Batch.of({"x": torch.zeros(2, 1)})
    of_step(surprise, batch, torch.full((2,), 2.0))
    assert of_step(surprise, batch, torch.full((2,), float("nan"))) == 1.0
    assert of_step(surprise, batch, torch.full((2,), 4.0)) == 2.0


def test_a_skipped_step_moves_no_running_mean() -> None:
    trainer = hebbian_trainer(third_factor=ThirdFactorOptions(source="surprise"))
    trainer.step(make_batch("classify", 8, seed=0))
    strategy = trainer.strategies["kernel_plasticity"]
    before = copied(strategy.state_dict())["third_factor"]["running"]
    bias = list(trainer.module.parameters())[-1]
    hook = bias.register_hook(lambda gradient: gradient * torch.nan)  # the loss is finite
    assert trainer.step(make_batch("classify", 8, seed=1)).skipped
    hook.remove()
    assert torch.equal(copied(strategy.state_dict())["third_factor"]["running"], before)
    trainer.step(make_batch("classify", 8, seed=2))
    assert not torch.equal(copied(strategy.state_dict())["third_factor"]["running"], before)


def test_novelty_is_the_distance_from_what_is_remembered() -> None:
    novelty = factor("novelty", decay=0.0, most=100.0)
    remembered = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    assert novelty.of(mixed(torch.ones(1, 2), remembered[:0]), torch.zeros(1)).item() == 1.0
    near, far = torch.tensor([[0.0, 1.0], [10.0, 3.0]]), torch.tensor([[0.0, 8.0]])
    assert of_step(novelty, mixed(near, remembered), torch.zeros(4)) == 1.0
    assert novelty.of(mixed(far, remembered), torch.zeros(3)).item() == pytest.approx(4.0)


def test_replayed_rows_count_as_they_are_told_to() -> None:
    batch = mixed(torch.ones(3, 1), torch.ones(1, 1))
    assert factor("replayed").of(batch, torch.zeros(4)).item() == 0.75
    assert factor("replayed", replayed_factor=2.0).of(batch, torch.zeros(4)).item() == 1.25


def test_reward_is_read_from_the_stream() -> None:
    batch = Batch.of({"x": torch.zeros(2, 1), "reward": torch.tensor([0.5, 1.5])})
    assert factor("reward").of(batch, torch.zeros(2)).item() == 1.0
    options = ThirdFactorOptions(source="reward")
    with pytest.raises(OperatorError, match="reward_field is 'reward'"):
        options.check_stream(Schema.of({"x": ("float32", (3,))}))
    options.check_stream(Schema.of({"x": ("float32", (3,)), "reward": ("float32", ())}))


def half(batch: Batch, losses: Tensor) -> float:
    return 0.5


def test_a_function_of_the_users_own_is_called() -> None:
    own = factor(f"{__name__}:half")
    assert own.of(Batch.of({"x": torch.zeros(1, 1)}), torch.zeros(1)).item() == 0.5
    with pytest.raises(OperatorError, match="cannot be imported"):
        factor("no.such.module:function")
    with pytest.raises(ValueError, match="surprise, novelty"):
        ThirdFactorOptions(source="luck")
    with pytest.raises(ValueError, match="above most"):
        ThirdFactorOptions(source="surprise", least=4.0)


def test_the_factor_multiplies_every_gain() -> None:
    trainer = hebbian_trainer(
        third_factor=ThirdFactorOptions(source=f"{__name__}:half"), mode="off"
    )
    plain = hebbian_trainer(mode="off")
    start = layer_of(plain).weight.detach().clone()
    batch = make_batch("classify", 8, seed=0)
    trainer.step(batch)
    plain.step(batch)
    moved, whole = layer_of(trainer).weight - start, layer_of(plain).weight - start
    torch.testing.assert_close(moved, 0.5 * whole, rtol=1e-4, atol=1e-6)


def test_the_configuration_on_the_page_learns() -> None:
    page = (Path(__file__).parent.parent / "insitu" / "docs" / "hebbian.md").read_text()
    text = page.split("## Keeping what was learned")[1]
    text = re.search(r"^    model.*(?:\n(?:    .*)?)*", text, re.MULTILINE)[0]
    fields = {"x": {"dtype": "float32", "shape": [6]}, "y": {"dtype": "int64", "shape": []}}
    stream = {"names": ["s"], "endpoints": ["tcp://127.0.0.1:*"], "fields": fields}
    config = check_config({**yaml.safe_load(text), "stream": stream})
    trainer = build_trainer(config, torch.device("cpu"))
    learn(trainer, range(3))
    assert trainer.skipped_steps == 0
    assert trainer.strategies["kernel_plasticity"].metrics()["consolidations"] == 3.0
