"""The tables of kernels: against plain sums of what was recorded, step by step."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from insitu.analysis.kernels import COLUMNS, KernelTable, kernel_tables, trainer_kernels
from insitu.errors import OperatorError
from insitu.strategies.kernel_plasticity import KernelPlasticityStrategy
from insitu.trainer import Trainer
from learning import Setup, copied, make_batch
from test_strategy_kernel_plasticity import hebbian_trainer, layer_of

LAYER = "0.layer"


def table_of(trainer: Trainer) -> KernelTable:
    return trainer_kernels(trainer)[LAYER]


def strategy_of(trainer: Trainer) -> KernelPlasticityStrategy:
    strategy = trainer.strategies["kernel_plasticity"]
    assert isinstance(strategy, KernelPlasticityStrategy)
    return strategy


def steps(trainer: Trainer, task: int, count: int = 4) -> dict[str, list[Tensor]]:
    """Train, and tell how far each kernel went in each step, with its gain."""
    seen: dict[str, list[Tensor]] = {"moved": [], "gain": []}
    layer = layer_of(trainer)
    for number in range(count):
        before = layer.weight.detach().clone()
        trainer.step(make_batch("classify", 8, seed=100 * task + number, task=task))
        assert layer.gain is not None
        seen["moved"].append((layer.weight - before).abs().mean(dim=1))
        seen["gain"].append(layer.gain.clone())
    return seen


def column(table: KernelTable, name: str) -> Tensor:
    return torch.tensor([getattr(kernel, name) for kernel in table.kernels])


def test_changes_are_those_of_the_weights() -> None:
    """With every gain at 1 what a kernel went is what it would have; under a gain it is less."""
    free = hebbian_trainer(mode="off")
    went = torch.stack(steps(free, 0)["moved"])
    table = table_of(free)
    for name in ("change_mean_per_step", "moved_mean_per_step"):
        torch.testing.assert_close(column(table, name), went.mean(0), rtol=1e-4, atol=1e-7)
    largest = column(table, "change_largest_per_step")
    torch.testing.assert_close(largest, went.amax(0), rtol=1e-4, atol=1e-7)

    held = hebbian_trainer(mode="soft", strength=5.0)
    steps(held, 0)
    held.end_task(0)
    seen = steps(held, 1)
    table = table_of(held)
    moved, gains = torch.stack(seen["moved"]), torch.stack(seen["gain"])
    torch.testing.assert_close(
        column(table, "moved_mean_per_step"), moved.mean(0), rtol=1e-4, atol=1e-7
    )
    torch.testing.assert_close(
        column(table, "change_mean_per_step"), (moved / gains).mean(0), rtol=1e-4, atol=1e-7
    )
    assert torch.equal(column(table, "gain"), gains[-1])
    assert bool((gains[-1] < 1.0).any())


def test_norms_rates_and_shares_are_those_of_the_layer_and_its_rows() -> None:
    trainer = hebbian_trainer(top=2)
    steps(trainer, 0, count=3)
    table, layer = table_of(trainer), layer_of(trainer)
    torch.testing.assert_close(column(table, "norm"), layer.weight.norm(dim=1))
    assert torch.equal(column(table, "learning_rate"), torch.full((8,), 0.05))
    assert (table.images, table.steps, table.updates, table.tasks) == (24, 3, 3, 0)
    assert table.shape == (8, 6)
    assert column(table, "activation_share").sum().item() == pytest.approx(2.0)
    assert [kernel.kernel for kernel in table.kernels] == list(range(8))


def test_after_a_task_the_last_one_is_shown_until_the_next_begins() -> None:
    trainer = hebbian_trainer()
    steps(trainer, 0)
    running = table_of(trainer)
    trainer.end_task(0)
    ended = table_of(trainer)
    assert (ended.images, ended.steps, ended.tasks) == (0, 0, 1)
    for name in COLUMNS[:5]:
        assert torch.equal(column(ended, name), column(running, name)), name
    assert torch.equal(column(ended, "importance"), column(running, "activation_share"))
    assert torch.equal(column(ended, "theta_per_step"), column(running, "change_mean_per_step"))
    steps(trainer, 1, count=1)
    begun = table_of(trainer)
    assert begun.images == 8
    assert not torch.equal(
        column(begun, "change_mean_per_step"), column(ended, "change_mean_per_step")
    )


@pytest.mark.parametrize("mode", ["cap", "threshold", "lock", "soft", "off"])
def test_the_budget_is_what_the_mode_allows_beyond_the_mean(mode: str) -> None:
    trainer = hebbian_trainer(mode=mode, protected_share=0.5, damped=0.3)
    steps(trainer, 0)
    trainer.end_task(0)
    moved = torch.stack(steps(trainer, 1)["moved"]).mean(0)
    table = table_of(trainer)
    assert table.mode == mode
    protected = [kernel for kernel in table.kernels if kernel.protected]
    assert 0 < len(protected) < 8
    for kernel in table.kernels:
        if not kernel.protected or mode in ("soft", "off"):
            assert kernel.budget_per_step is None
            continue
        assert kernel.theta_per_step is not None
        assert kernel.change_mean_per_step is not None
        expected = {
            "cap": 0.3 * kernel.theta_per_step - moved[kernel.kernel].item(),
            "threshold": kernel.theta_per_step - kernel.change_mean_per_step,
            "lock": 0.0,
        }[mode]
        assert kernel.budget_per_step == pytest.approx(expected, rel=1e-3, abs=1e-6)
        if mode == "cap":
            assert kernel.budget_per_step >= -1e-6


def test_a_step_that_moves_nothing_changes_no_figure() -> None:
    trainer = hebbian_trainer()
    steps(trainer, 0)
    part = strategy_of(trainer).parts[LAYER]
    before = [part.change_largest.clone(), part.moved_mean.clone()]
    layer_of(trainer).discard()
    part.modulate()
    part.record()
    assert torch.equal(part.change_largest, before[0])
    assert torch.equal(part.moved_mean, before[1])


def test_a_state_that_was_saved_shows_what_the_trainer_shows() -> None:
    trainer = hebbian_trainer(mode="threshold", deviations=-1.0, boosted=1.5)
    for task in range(2):
        steps(trainer, task)
        trainer.end_task(task)
    steps(trainer, 2, count=2)
    state = copied(trainer.state_dict())
    live, saved = table_of(trainer), kernel_tables(state["model"], state["strategies"])[LAYER]
    assert live.as_dict() == saved.as_dict() == json.loads(json.dumps(live.as_dict()))

    resumed = hebbian_trainer(mode="threshold", deviations=-1.0, boosted=1.5)
    resumed.load_state_dict(state)
    assert table_of(resumed).kernels == live.kernels


def test_options_are_those_of_the_trainer_and_not_of_the_state() -> None:
    trainer = hebbian_trainer(mode="cap")
    steps(trainer, 0)
    other = hebbian_trainer(mode="lock")
    other.load_state_dict(copied(trainer.state_dict()))
    assert table_of(other).mode == "lock"


def test_without_the_strategy_only_the_layers_own_figures_are_known() -> None:
    trainer = Setup(strategies=("replay",), hebbian=True).trainer()
    trainer.step(make_batch("classify", 8, seed=0))
    (table,) = trainer_kernels(trainer).values()
    assert table.mode is None
    known = {name for name in COLUMNS if getattr(table.kernels[0], name) is not None}
    assert known == {"kernel", "norm", "learning_rate"}


def test_a_model_without_hebbian_layers_is_refused() -> None:
    state = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    with pytest.raises(OperatorError, match="no Hebbian layer"):
        kernel_tables(state, {})


def test_quantiles_leave_out_kernels_without_the_figure() -> None:
    table = KernelTable(
        "a", (4, 1), 1, "cap", 0, 0, 1,
        {"kernel": torch.arange(4), "norm": torch.tensor([1.0, 2.0, 3.0, 5.0]),
         "gain": torch.full((4,), torch.nan),
         "budget_per_step": torch.tensor([torch.nan, 2.0, 4.0, torch.nan])},
    )  # fmt: skip
    assert table.quantiles((0.0, 0.5, 1.0)) == {
        "norm": {0.0: 1.0, 0.5: 2.5, 1.0: 5.0},
        "budget_per_step": {0.0: 2.0, 0.5: 3.0, 1.0: 4.0},
    }
