"""A Hebbian step that can be captured: nothing looks at the device, and shapes stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hebbian import RULES, layer
from hebbian_network import fields, make
from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock, pooling
from insitu.layers.graph import CapturedStep
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.kernel_plasticity import KernelPlasticity
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.update import HebbianUpdate
from learning import assert_same, copied, generator

LABELS = torch.tensor([2, 0, -1, 4])
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def network(by: str = "softhebb", seed: int = 0) -> nn.Sequential:
    """Two blocks, the second fully connected."""
    first: Any = layer(2, by=by, padding=1, seed=seed)
    last: Any = layer(0, by=by, channels=45, kernels=6, seed=seed + 1)
    pool = pooling("max", 2, 2)
    return nn.Sequential(
        HebbianBlock(first, power=0.7, pool=pool), nn.Flatten(), HebbianBlock(last)
    )


def rows(number: int, count: int = 4) -> Tensor:
    return torch.randn(count, 2, 6, 7, generator=generator(number))


class AllOnDevice(TorchDispatchMode):
    """Refuses operators that a captured graph could not repeat: looks and copies to the host.

    Tensors of `meta` have no values, so whatever asks for one fails of itself.
    """

    operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        seen = torch.utils._pytree.tree_leaves((args, kwargs, result))
        assert all(part.is_meta for part in seen if isinstance(part, Tensor)), func
        self.operators += 1
        return result


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("masked", [False, True])
def test_no_step_looks_at_the_device(name: str, masked: bool) -> None:
    net = network(name)
    plasticities = [KernelPlasticity(made, top=2) for made in HebbianUpdate(net).layers]
    net.to("meta")
    for plasticity in plasticities:
        plasticity.to("meta")
    update = HebbianUpdate(net, record_always=False)
    mask = torch.ones(4, dtype=torch.bool, device="meta") if masked else None
    x, labels = rows(0).to("meta"), LABELS.to("meta")
    counts = []
    for _ in range(3):
        with AllOnDevice() as counter, update.recording(labels, mask):
            features = net(x)
            for plasticity, made in zip(plasticities, update.layers, strict=True):
                plasticity.watch(features[:, : made.weight.shape[0]])
                plasticity.modulate()
            update.move()
            for plasticity in plasticities:
                plasticity.record()
        counts.append(counter.operators)
    assert counts == counts[:1] * 3  # the same operators in every step


def test_what_looks_at_the_device_would_be_found() -> None:
    made = layer(0).to("meta")
    with pytest.raises(RuntimeError), AllOnDevice():
        bool(made.scale)
    with pytest.raises(AssertionError), AllOnDevice():
        made.scale + torch.zeros(1)


def compare(device: str, layout: torch.memory_format, count: int, by: str) -> None:
    """Five steps, captured or not; what another device than the plain run's gives is near."""
    plain, made = network(by).to(device), network(by).to(device)
    for net in (plain, made):
        net[0].to(memory_format=layout)
    update = HebbianUpdate(plain)
    step = CapturedStep(made, HebbianUpdate(made, record_always=False), rows=4)
    for number in range(5):
        x = rows(number, count).to(device).contiguous(memory_format=layout)
        labels = LABELS[:count].to(device)
        with update.recording(labels):
            expected = plain(x)
        update.step()
        torch.testing.assert_close(step(x, labels), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        copied(made.state_dict()), copied(plain.state_dict()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("by", ["softhebb", "supervised_soft"])
def test_a_step_in_memory_that_never_moves_is_the_plain_step(by: str, count: int) -> None:
    compare("cpu", torch.channels_last, count, by)


@CUDA
@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("by", RULES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_captured_step_is_the_plain_step(
    layout: torch.memory_format, by: str, count: int
) -> None:
    compare("cuda", layout, count, by)


def test_full_batches_are_the_plain_step_to_the_bit() -> None:
    plain, made = network(), network()
    update = HebbianUpdate(plain)
    step = CapturedStep(made, HebbianUpdate(made), rows=4)
    for number in range(3):
        expected = plain(rows(number))
        update.step()
        assert torch.equal(step(rows(number)), expected)
    assert_same(copied(made.state_dict()), copied(plain.state_dict()))


def frozen_after_two(device: str) -> None:
    model = make(plastic_updates=2).to(device)
    step = CapturedStep(model, HebbianUpdate(model, record_always=False), rows=4)
    layers = [part for part in model.modules() if isinstance(part, HebbianLayer)]
    for number in range(4):
        step(fields(4, number).to(device))
    assert [int(made.updates) for made in layers] == [2] * len(layers)
    assert not any(made.plastic for made in layers)


def test_blocks_are_frozen_when_they_have_had_their_updates() -> None:
    frozen_after_two("cpu")


@CUDA
def test_a_step_is_captured_anew_when_blocks_are_frozen() -> None:
    frozen_after_two("cuda")


def test_what_a_captured_step_cannot_take() -> None:
    net = network()
    step = CapturedStep(net, HebbianUpdate(net), rows=4)
    step(rows(0))
    with pytest.raises(OperatorError, match=r"rows of \[5, 2, 6, 7\]"):
        step(rows(0, 5))
    with pytest.raises(OperatorError, match=r"rows of \[0, 2, 6, 7\]"):
        step(rows(0, 0))
    with pytest.raises(OperatorError, match=r"rows of \[4, 2, 7, 6\]"):
        step(rows(0).transpose(2, 3))
    with pytest.raises(OperatorError, match="of 0 rows"):
        CapturedStep(net, HebbianUpdate(net), rows=0)


def test_statistics_that_were_discarded_are_not_taken_over() -> None:
    made = BatchStandardisation(2)
    before = copied(made.state_dict())
    made(rows(0))
    made.discard()
    made.apply_update()
    assert_same(copied(made.state_dict()), before)
    made(rows(0))
    made.apply_update()
    made.apply_update()
    assert made.num_batches_tracked == 1
    torch.testing.assert_close(made.running_mean, 0.1 * rows(0).mean(dim=(0, 2, 3)))
