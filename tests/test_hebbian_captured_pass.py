"""A trainer whose Hebbian passes run in memory that never moves learns what any other learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hebbian_network import (
    CLASSES,
    CONVOLUTION,
    batch,
    fields,
    make,
    objective,
    plasticity,
    trainer,
)
from insitu.detection.winner_divergence import WinnerDivergence
from insitu.errors import OperatorError
from insitu.layers.capture import warm_up
from insitu.layers.captured_pass import CapturedMove, CapturedPass, CapturesPasses, _Pass
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.update import HebbianUpdate
from insitu.models.hebbian import Hebbian
from insitu.trainer import Trainer
from learning import assert_same, copied

SUCCESSIVE = {"order": "successive", "plastic_updates": 3}
TAUGHT: dict[str, Any] = {
    "blocks": [
        CONVOLUTION,
        {"kernels": CLASSES, "rule": {"name": "supervised_soft"}, "eta": 0.1},
    ]
}
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def network(made: Trainer) -> Hebbian:
    return next(part for part in made.module.modules() if isinstance(part, Hebbian))


def captured(**options: Any) -> Trainer:
    """As `trainer`, with its passes captured: on a CPU operator by operator."""
    made = trainer(**options)
    network(made).capture_passes()
    return made


@pytest.mark.parametrize("strategies", [(), ("replay", "online_ewc"), ("mir", "a_gem", "lwf")])
@pytest.mark.parametrize(
    "options", [{}, SUCCESSIVE, {"padded_rows": 4}, TAUGHT, {**TAUGHT, "padded_rows": 8}]
)
def test_a_captured_run_is_the_plain_run_to_the_bit(
    strategies: tuple[str, ...], options: dict[str, Any]
) -> None:
    plain = trainer(strategies=strategies, options=options)
    made = captured(strategies=strategies, options=options)
    losses = []
    for run in (plain, made):
        torch.manual_seed(0)
        steps = [run.step(batch(number, rows=(6, 6, 5)[number % 3])) for number in range(8)]
        run.end_task(0)
        losses.append(copied({str(step.step): step.loss for step in steps}))
    assert_same(losses[0], losses[1])
    assert_same(copied(made.state_dict()), copied(plain.state_dict()))
    assert plasticity(made.module) == plasticity(plain.module)


def test_a_warm_up_teaches_nothing() -> None:
    model = make()
    update = HebbianUpdate(model)
    model(fields(4, 0))  # something that is recorded and not yet applied
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = copied(tensors)

    def step() -> None:
        model(fields(4, 1))
        update.move()

    warm_up(step, list(tensors.values()))
    assert_same(copied(tensors), before)
    step()
    assert not torch.equal(model.blocks[0].layer.weight, before["blocks.0.layer.weight"])


def test_passes_that_nobody_learns_from_are_not_captured() -> None:
    model = make()
    model.capture_passes()
    update = HebbianUpdate(model, record_always=False)
    model.blocks[0].register_forward_hook(lambda *_: None)  # which a capture refuses
    model(fields(4, 0))
    model.eval()(fields(4, 0))
    model.train()
    copy.deepcopy(model)(fields(4, 0))
    with (
        update.recording(),
        pytest.raises(OperatorError, match="captured pass through '0', which others watch"),
    ):
        model(fields(4, 0))


def test_more_shapes_than_there_are_graphs_for_run_operator_by_operator() -> None:
    model = make()
    seen: list[int] = []

    def through(rows: Tensor) -> Tensor:
        seen.append(rows.data_ptr())
        for block in model.blocks:
            rows = block(rows)
        return rows

    runs = CapturedPass(model.blocks, most_shapes=2)
    given = [fields(rows, 0) for rows in (2, 3, 4)]
    for rows in (*given, *given):
        runs(through, rows)
    # the first two shapes where they were copied to, the third where it is
    assert seen[:2] == seen[3:5]
    assert not {given[0].data_ptr(), given[1].data_ptr()} & set(seen)
    assert seen[2] == seen[5] == given[2].data_ptr()


def test_mask_and_labels_are_shown_where_they_never_move() -> None:
    model = make(**TAUGHT)
    update = HebbianUpdate(model, record_always=False)
    last = update.layers[-1]
    seen: list[tuple[Tensor | None, Tensor | None]] = []

    def through(rows: Tensor) -> Tensor:
        seen.append((last.labels, last.mask))
        for block in model.blocks:
            rows = block(rows)
        return rows

    runs = CapturedPass(model.blocks)
    for labels, mask in (([0, 1], [True, True]), ([2, 0], [True, False])):
        given = torch.tensor(labels), torch.tensor(mask)
        with update.recording(*given):
            runs(through, fields(2, 0))
            assert last.labels is given[0]
            assert last.mask is given[1]
        for shown, meant in zip(seen[-1], given, strict=True):
            assert shown is not meant
            assert shown is not None
            assert torch.equal(shown, meant)
    assert seen[0][0] is seen[1][0]
    assert seen[0][1] is seen[1][1]


def test_a_captured_move_is_the_step_of_an_update() -> None:
    plain, made = (make(plastic_updates=2) for _ in range(2))
    step, move = HebbianUpdate(plain).step, CapturedMove(HebbianUpdate(made))
    for number in range(4):
        for model, moves in ((plain, step), (made, move)):
            model(fields(4, number))
            moves()
    assert_same(copied(made.state_dict()), copied(plain.state_dict()))
    assert plasticity(made) == [False, False]


def watched_by_plasticity() -> Any:
    return trainer(strategies=("kernel_plasticity",), cuda_graphs=True)


def watched_by_a_detector() -> Any:
    model = make()
    WinnerDivergence(model)
    return of(model)


def of_every_task() -> Any:
    model = make()
    next(p for p in model.modules() if isinstance(p, BatchStandardisation)).keep_tasks()
    return of(model)


def of(model: Any) -> Trainer:
    goal, rate = objective("classify"), torch.optim.SGD(model.parameters(), lr=0.1)
    return Trainer(model, goal, rate, cuda_graphs=True)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: of(nn.Linear(2, 2)), "true, and the model has no Hebbian blocks"),
        (lambda: of(torch.compile(make(), backend="eager")), "true, and the model is compiled"),
        (watched_by_plasticity, "which others watch"),
        (watched_by_a_detector, "which others watch"),
        (of_every_task, "keeps the standardisation of every task"),
        (lambda: trainer(cuda_graphs=True), "true, and the model is on cpu"),
    ],
)
def test_what_cannot_be_captured_is_refused(build: Any, why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        build()


def test_the_network_says_that_it_can_be_captured() -> None:
    assert isinstance(make(), CapturesPasses)
    assert not isinstance(nn.Linear(2, 2), CapturesPasses)


def test_a_pass_reads_what_it_is_given_and_what_it_gave_stays() -> None:
    made = _Pass(torch.zeros(2), None, torch.zeros(2, dtype=torch.int64))
    made.run = lambda: made.rows  # as a graph does, in the same memory every time
    labels = torch.tensor([1, 2])
    first = made(torch.ones(2), None, labels)
    assert made.labels is not None
    assert torch.equal(made.labels, labels)
    assert torch.equal(made(torch.zeros(2), None, labels), torch.zeros(2))
    assert torch.equal(first, torch.ones(2))


@CUDA
@pytest.mark.parametrize("options", [{}, SUCCESSIVE, {"padded_rows": 4}, TAUGHT])
def test_a_run_by_graphs_is_the_plain_run(options: dict[str, Any]) -> None:
    goal = objective("classify")
    runs = []
    for graphs in (False, True):
        model = goal.network(make(output_shape=goal.output_shape, **options)).to("cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        runs.append(Trainer(model, goal, optimizer, cuda_graphs=graphs))
        for number in range(8):
            runs[-1].step(batch(number, rows=(6, 6, 5)[number % 3]))
    plain, made = (copied(run.state_dict()["model"]) for run in runs)
    torch.testing.assert_close(made, plain, rtol=1e-4, atol=1e-5)
    counted = [part for part in runs[1].module.modules() if isinstance(part, HebbianLayer)]
    assert all(layer.updates > 0 for layer in counted)
