"""Padded batches with a row mask teach what the unpadded ones teach.

Counts are the same to the last bit. Sums are taken in another order, so weights, directions and
statistics agree to rounding: 1e-9 here, in float64, and 1e-5 where a network runs in float32.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hebbian import RULES, layer, rows_for
from hebbian_network import CLASSES, CONVOLUTION, batch, fields, layers, make, trainer
from insitu.detection import DriftWatch
from insitu.detection.winner_divergence import WinnerDivergence
from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock, pooling
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.kernel_plasticity import KernelPlasticity
from insitu.layers.rules.competition import one_hot
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.update import HebbianUpdate
from insitu.trainer import Trainer
from learning import assert_same, copied, generator

NEAR = {"rtol": 1e-9, "atol": 1e-11}

#: what stands in rows that are not real
GARBAGE = [0.0, 1e30, math.inf, math.nan]
MASKS = st.lists(st.booleans(), min_size=1, max_size=9)


def padded(rows: Tensor, mask: Tensor, garbage: float) -> Tensor:
    """`rows` where the mask is True, garbage elsewhere."""
    result = torch.full((len(mask), *rows.shape[1:]), garbage, dtype=rows.dtype)
    result[mask] = rows
    return result


def pair(dimensions: int, name: str) -> tuple[HebbianLayer, HebbianLayer]:
    options: dict[str, Any] = {"padding": 1} if dimensions else {"channels": 4}
    one, other = (layer(dimensions, by=name, **options).double() for _ in range(2))
    return one, other


@pytest.mark.parametrize("name", RULES)
@given(
    dimensions=st.integers(0, 3), shown=MASKS, garbage=st.sampled_from(GARBAGE), seed=st.integers()
)
@settings(max_examples=20)
def test_a_layer_learns_from_real_rows_alone(
    name: str, dimensions: int, shown: list[bool], garbage: float, seed: int
) -> None:
    plain, masked = pair(dimensions, name)
    mask = torch.tensor(shown)
    updates = HebbianUpdate(plain), HebbianUpdate(masked)
    for step in range(3):
        rows = rows_for(plain, rows=sum(shown), seed=(seed + step) % 2**32, extent=4)
        labels = torch.randint(-1, 6, (len(shown),), generator=generator(step))
        with updates[0].recording(labels[mask]):
            expected = plain(rows)
        with updates[1].recording(labels, mask):
            found = masked(padded(rows, mask, garbage))
        torch.testing.assert_close(found[mask], expected, **NEAR)
        assert torch.equal(one_hot(found[mask]), one_hot(expected))  # the same kernels win
        torch.testing.assert_close(masked.recorded_direction, plain.recorded_direction, **NEAR)
        for update in updates:
            update.step()
        torch.testing.assert_close(masked.weight, plain.weight, **NEAR)
        torch.testing.assert_close(masked.norms, plain.norms, **NEAR)
        assert torch.equal(masked.updates, plain.updates)
    assert bool(plain.updates) == any(shown) or name == "supervised_soft"  # labels may be none


@given(
    dimensions=st.integers(0, 3), shown=MASKS, garbage=st.sampled_from(GARBAGE), seed=st.integers()
)
@settings(max_examples=50)
def test_statistics_are_those_of_real_rows(
    dimensions: int, shown: list[bool], garbage: float, seed: int
) -> None:
    plain, masked = BatchStandardisation(2).double(), BatchStandardisation(2).double()
    mask, places = torch.tensor(shown), range(2, 2 + dimensions)
    updates = HebbianUpdate(plain), HebbianUpdate(masked)
    for step in range(2):
        random = generator((seed + step) % 2**32)
        rows = 5.0 + 3.0 * torch.randn(sum(shown), 2, *places, generator=random).double()
        with updates[0].recording():
            expected = plain(rows)
        with updates[1].recording(mask=mask):
            found = masked(padded(rows, mask, garbage))
        torch.testing.assert_close(found[mask], expected, **NEAR)
        for update in updates:
            update.step()
        torch.testing.assert_close(masked.state_dict(), plain.state_dict(), **NEAR)
    assert torch.equal(masked.num_batches_tracked, plain.num_batches_tracked)


@given(shown=MASKS, garbage=st.sampled_from(GARBAGE), dimensions=st.sampled_from([0, 2]))
@settings(max_examples=25)
def test_recorders_of_a_block_count_real_rows(
    shown: list[bool], garbage: float, dimensions: int
) -> None:
    made = []
    mask = torch.tensor(shown)
    for real in (None, mask):
        inner: Any = pair(dimensions, "softhebb")[0]
        pool = pooling("max", dimensions, 2) if dimensions else None
        block = HebbianBlock(inner, power=0.7, pool=pool).double()
        part = KernelPlasticity(inner, top=2).double()
        assert block.activation is not None
        block.activation.register_forward_hook(lambda _m, _i, out, part=part: part.watch(out))
        update = HebbianUpdate(block)
        for step in range(2):
            rows = rows_for(inner, rows=sum(shown), seed=step)
            with update.recording(mask=real):
                block(rows if real is None else padded(rows, mask, garbage))
            part.modulate()
            update.step()
            part.record()
        part.end_task()
        made.append((dict(part.state_dict()), dict(block.state_dict())))
    (plain, one), (masked, other) = made
    for name in ("importance", "last_share", "protected"):
        assert torch.equal(plain[name], masked[name]), name
    torch.testing.assert_close(masked, plain, **NEAR)
    torch.testing.assert_close(other, one, **NEAR)


def test_a_mask_of_another_size_is_refused() -> None:
    made = layer(2)
    for mask in (torch.ones(3, dtype=torch.bool), torch.ones(4)):
        for part in (made, BatchStandardisation(2)):
            part.mask = mask
            with pytest.raises(OperatorError, match="the mask of a batch of 4 rows"):
                part(rows_for(made))


def test_masks_end_with_the_recording() -> None:
    block = HebbianBlock(layer(2))  # type: ignore[arg-type]
    update = HebbianUpdate(block)
    with pytest.raises(ZeroDivisionError), update.recording(mask=torch.ones(1, dtype=torch.bool)):
        raise ZeroDivisionError
    assert block.layer.mask is None
    assert block.standardisation is not None
    assert block.standardisation.mask is None


# --- the network


def both(strategies: tuple[str, ...], **options: Any) -> tuple[Trainer, Trainer]:
    """Trainers of the same network, one with padding."""
    made = []
    for padded_rows in (None, 8):
        each = trainer(strategies=strategies, options={**options, "padded_rows": padded_rows})
        each.watch = DriftWatch([(WinnerDivergence(each.module, window_steps=2), 0)])
        made.append(each)
    return made[0], made[1]


def taught(trainers: tuple[Trainer, Trainer], sizes: list[int]) -> tuple[Any, Any]:
    """States after batches of these sizes, in two tasks."""
    for each in trainers:
        for number, rows in enumerate(sizes):
            each.step(batch(number, rows=rows, task=number // 3))
            if number % 3 == 2:
                each.end_task(number // 3)
    one, other = (copied(each.state_dict()) for each in trainers)
    return one, other


SIZES = [6, 3, 7, 1, 8, 11, 16]


@pytest.mark.parametrize("strategies", [(), ("replay", "kernel_plasticity", "a_gem", "lwf")])
def test_a_network_learns_the_same_from_padded_batches(strategies: tuple[str, ...]) -> None:
    plain, padded_one = taught(both(strategies), SIZES)
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(padded_one["model"], plain["model"], **near)
    for name in plain["strategies"]:
        if name != "kernel_plasticity":
            continue
        mine, yours = (each["strategies"][name]["layers"] for each in (padded_one, plain))
        torch.testing.assert_close(mine, yours, **near)
        for part in mine:
            assert torch.equal(mine[part]["images"], yours[part]["images"])
            assert torch.equal(mine[part]["hits"], yours[part]["hits"])
    for name in ("generators", "segments", "steps"):
        assert_same(padded_one[name], plain[name])
    seen = [state["watch"]["detectors"]["winner_divergence"] for state in (padded_one, plain)]
    torch.testing.assert_close(seen[0], seen[1], **near)
    assert len(plain["watch"]["detectors"]["winner_divergence"]["means"]) > 0


def test_rows_that_were_masked_before_stay_so_in_a_padded_network() -> None:
    one, other = make(), make(padded_rows=8)
    mask = torch.tensor([True, False, True, True, False])
    for model, rows, real in ((one, fields(5, 3)[mask], None), (other, fields(5, 3), mask)):
        update = HebbianUpdate(model)
        with update.recording(mask=real):
            model(rows)
            model(rows)
        update.step()
        assert all(part.mask is None for part in (*update.layers, *update.standardisations))
    torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=1e-4, atol=1e-5)


def test_labels_of_padded_batches_reach_a_supervised_layer() -> None:
    block = {"kernels": CLASSES, "rule": {"name": "supervised_soft"}, "eta": 0.1, "radius": 1.0}
    options = {"blocks": [CONVOLUTION, block], "head": "scale"}
    plain, padded_one = taught(both((), **options), SIZES)
    torch.testing.assert_close(padded_one["model"], plain["model"], rtol=1e-4, atol=1e-5)


def test_a_compiled_network_has_one_shape_for_all_batches() -> None:
    """Inside, where the work is; a size that comes anew brings no new graph after the second."""
    model, plain = make(padded_rows=8), make()
    shapes: set[torch.Size] = set()
    graphs: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        for node in graph.graph.nodes:
            value = node.meta.get("example_value")
            if node.op == "call_function" and "conv2d" in str(node.target):
                shapes.add(value.shape)
        return graph

    traced = torch.compile(model, backend=keep, fullgraph=True)
    updates = HebbianUpdate(model), HebbianUpdate(plain)
    for rows in (6, 3, 7, 5, 4, 8):
        torch.testing.assert_close(
            traced(fields(rows, rows)), plain(fields(rows, rows)), rtol=1e-4, atol=1e-5
        )
        for update in updates:
            update.step()
    for mine, yours in zip(layers(model), layers(plain), strict=True):
        torch.testing.assert_close(mine.weight, yours.weight, rtol=1e-4, atol=1e-5)
    assert len(graphs) <= 2
    assert shapes == {torch.Size([8, 7, 8, 6])}
    torch.compiler.reset()
