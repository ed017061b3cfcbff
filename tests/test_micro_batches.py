"""An update that runs out of memory is made in pieces, and is the same update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.trainer import Trainer
from insitu.trainer.micro_batches import OutOfMemory, is_out_of_memory
from learning import Setup, assert_same, copied, make_batch, stream


def limit(trainer: Trainer, rows: int, *, backward: bool = False) -> list[int]:
    """Let memory run out above so many rows of a training pass; what was asked for, in order."""
    asked: list[int] = []

    def run_out(gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            asked.append(len(inputs[0]))
            if len(inputs[0]) > rows and not backward:
                raise torch.OutOfMemoryError("CUDA out of memory")

    def after(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        if backward and module.training and outputs.requires_grad and len(outputs) > rows:
            outputs.register_hook(run_out)

    trainer.module.register_forward_pre_hook(before)
    trainer.module.register_forward_hook(after)
    return asked


def gradients(trainer: Trainer) -> list[Tensor]:
    return [p.grad for p in trainer.module.parameters() if p.grad is not None]


def trained(trainer: Trainer) -> list[list[Tensor]]:
    """The gradients of every step over two tasks."""
    found = []
    for task in (0, 1):
        for batch in stream("classify", 4, rows=16, task=task):
            trainer.step(batch)
            found.append([gradient.clone() for gradient in gradients(trainer)])
        trainer.end_task(task)
    return found


STRATEGIES = [
    (), ("replay",), ("der_pp",), ("online_ewc",), ("lwf",), ("er_ace",),
    ("replay", "ewc", "lwf"),
]  # fmt: skip


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("strategies", STRATEGIES, ids="+".join)
def test_the_gradient_is_that_of_the_whole_batch(
    strategies: tuple[str, ...], backward: bool
) -> None:
    setup = Setup(strategies=strategies, optimizer="SGD", schedule=None)
    whole = trained(setup.trainer())
    trainer = setup.trainer()
    asked = limit(trainer, 5, backward=backward)
    batches = trained(trainer)
    for expected, found in zip(whole, batches, strict=True):
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    assert trainer.micro_batches.rows is not None
    assert trainer.micro_batches.rows <= 5
    assert max(asked) > 5


def test_what_did_not_fit_is_not_tried_again() -> None:
    trainer = Setup().trainer()
    asked = limit(trainer, 3)
    for batch in stream("classify", 3, rows=8):
        trainer.step(batch)
    assert asked == [8, 4, *[2] * 8, *[2] * 8, *[2] * 8]
    assert (trainer.micro_batches.rows, trainer.micro_batches.retries) == (2, 2)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 16])
def test_pieces_of_any_size_cover_every_row_once(rows: int) -> None:
    expected, found = Setup(optimizer="SGD").trainer(), Setup(optimizer="SGD").trainer()
    limit(found, rows)
    for trainer in (expected, found):
        trainer.step(make_batch("classify", 16, 0))
    for one, other in zip(gradients(expected), gradients(found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_a_row_that_does_not_fit_stops_and_nothing_has_changed() -> None:
    trainer = Setup(strategies=("replay", "online_ewc")).trainer()
    limit(trainer, 0)
    before = copied(trainer.state_dict())
    with pytest.raises(OutOfMemory, match="pieces of 1 row do not fit either") as raised:
        trainer.step(make_batch("classify", 8, 0))
    after = trainer.state_dict()
    for state in (before, after):
        del state["generators"]  # dropout may have been thrown
    assert_same(copied(after), before)
    assert "lower trainer.batch_size" in str(raised.value)
    assert gradients(trainer) == []


def test_a_step_that_fits_again_goes_on_after_one_that_did_not() -> None:
    """What was counted first for the normaliser is counted anew."""
    trainer = Setup().trainer()
    short = True

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if short:
            raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.module.register_forward_pre_hook(before)
    with pytest.raises(OutOfMemory):
        trainer.step(make_batch("classify", 8, 0))
    short = False
    report = trainer.step(make_batch("classify", 8, 0))
    assert (report.step, report.skipped) == (1, False)
    assert trainer.normaliser is not None
    assert trainer.normaliser.samples == 8


def test_dropout_drops_the_same_in_both_passes() -> None:
    """The gradient of what was lost, whatever dropped: a loss that the outputs alone decide."""
    trainer = Setup(dropout=0.5, optimizer="SGD").trainer()
    seen: list[Tensor] = []
    trainer.module[-1].register_forward_pre_hook(  # type: ignore[index,operator]
        lambda module, inputs: seen.append(inputs[0].detach().clone())
    )
    limit(trainer, 4)
    trainer.step(make_batch("classify", 16, 0))
    first, second = seen[:4], seen[4:]
    assert len(second) == 4
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    assert any(not torch.equal(one == 0, first[0] == 0) for one in first[1:])


class Counting(nn.Module):
    """Counts the rows that pass, as running statistics do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.rows: Tensor
        self.register_buffer("rows", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.rows += len(x)
        out: Tensor = self.layer(x)
        return out


def made(model: nn.Module) -> Trainer:
    objective = Setup().trainer().objective
    return Trainer(model, objective, torch.optim.SGD(model.parameters(), lr=0.1))


def test_what_a_forward_pass_counts_counts_once() -> None:
    model = Counting()
    made(model).step(make_batch("classify", 9, 0))
    assert model.rows == 9


def test_rows_that_need_one_another_are_never_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    trainer = made(model)
    asked = limit(trainer, 3)
    trainer.step(make_batch("classify", 7, 0))
    assert trainer.micro_batches.rows == 3
    assert asked == [7, *[2, 2, 3] * 2]
    limit(trainer, 1)
    with pytest.raises(OutOfMemory, match="pieces of 3 rows do not fit"):
        trainer.step(make_batch("classify", 7, 1))


def test_hebbian_layers_are_not_asked_twice() -> None:
    trainer = Setup(hebbian=True).trainer()
    asked = limit(trainer, 4)
    with pytest.raises(OutOfMemory, match="Hebbian layers learn in the forward pass"):
        trainer.step(make_batch("classify", 8, 0))
    assert asked == [8]
    assert trainer.steps == 0


def test_other_errors_stay_what_they_are() -> None:
    trainer = Setup().trainer()

    def before(module: nn.Module, inputs: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer.module.register_forward_pre_hook(before)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.step(make_batch("classify", 8, 0))
    assert trainer.micro_batches.retries == 0


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())


def test_replayed_rows_stay_the_last_ones_of_the_pieces() -> None:
    batch = make_batch("classify", 6, 0)
    joined = batch.joined(make_batch("classify", 4, 1))
    trainer = Setup().trainer()
    trainer.micro_batches.shrink(10)
    trainer.micro_batches.shrink(10)
    passes = trainer.micro_batches.passes(joined)
    assert passes is not None
    parts: list[Batch] = passes._parts
    assert [part.fresh_rows for part in parts] == [2, 2, 2, 0, 0]
    assert sum(part.rows for part in parts) == 10
