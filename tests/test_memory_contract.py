"""What every episodic memory promises; runs on all of them alike."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from insitu.batch import Batch, Column, SampleFlag
from insitu.component import catalogue
from insitu.criterion import Criterion
from insitu.errors import InternalError, OperatorError
from insitu.memory.base import Memory
from insitu.memory.composition import composition
from insitu.memory.store import SampleStore
from insitu.objectives.classify import Classify
from insitu.schema import DTYPES, Schema
from learning import bits

_CPU = torch.device("cpu")
_MEMORIES = sorted(catalogue("insitu.memory"))
_DEVICES = [_CPU] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
every_memory = pytest.mark.parametrize("name", _MEMORIES)


def _memory(name: str, capacity: int, seed: int = 0, device: torch.device = _CPU) -> Memory:
    criterion = _criterion(device)
    parts = {
        "capacity_samples": capacity,
        "device": device,
        "generator": torch.Generator().manual_seed(seed),
        "criterion": criterion,
        "objective": criterion.objective,
    }
    memory = catalogue("insitu.memory")[name].build({}, parts)
    assert isinstance(memory, Memory)
    return memory


def _criterion(device: torch.device) -> Criterion:
    schema = Schema.of({"x": ("float32", (2, 3)), "y": ("int64", ())})
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    return Criterion(model.to(device), Classify(schema, classes=3))


def _batch(start: int, rows: int, task: int = 0, device: torch.device = _CPU) -> Batch:
    """Samples that tell their number: `x` and the row number; `y` is the number modulo 3."""
    number = torch.arange(start, start + rows)
    batch = Batch.of(
        {
            "x": (number[:, None, None] * torch.ones(2, 3)).to(device),
            "y": (number % 3).to(device),
            "half": number.to(torch.bfloat16).to(device),
        },
        task=task,
    )
    batch.provenance[:, Column.ROW] = number
    return batch


def _numbers(batch: Batch | None) -> list[int]:
    """The numbers of the samples, after checking that all of each sample belongs together."""
    assert batch is not None
    rows = batch.column(Column.ROW)
    x, y = batch.fields["x"].cpu(), batch.fields["y"].cpu()
    assert torch.equal(x, rows[:, None, None] * torch.ones(2, 3))
    assert torch.equal(y, rows % 3)
    assert batch.fresh_rows == 0
    return rows.tolist()


def test_there_is_more_than_one() -> None:
    assert {"reservoir", "class_balanced"} <= set(_MEMORIES)


@every_memory
def test_an_empty_memory_gives_nothing(name: str) -> None:
    memory = _memory(name, 4)
    assert len(memory) == 0
    assert memory.sample(3) is None
    assert memory.composition() == {}
    memory.add(_batch(0, 0))
    assert memory.sample(3) is None
    memory.add(_batch(0, 2))
    assert memory.sample(0) is None


@every_memory
@given(
    capacity=st.integers(1, 12),
    sizes=st.lists(st.integers(0, 9), max_size=12),
    seed=st.integers(0, 99),
)
def test_it_holds_different_samples_that_were_added_and_fills_first(
    name: str, capacity: int, sizes: list[int], seed: int
) -> None:
    memory, added = _memory(name, capacity, seed), 0
    for task, rows in enumerate(sizes):
        memory.add(_batch(added, rows, task), torch.arange(added, added + rows).float())
        added += rows
        assert len(memory) == min(capacity, added)
    if not added:
        return
    numbers = _numbers(memory.sample(len(memory)))
    assert len(set(numbers)) == len(memory)
    assert set(numbers) <= set(range(added))
    rows = memory.provenance[:, Column.ROW]
    assert sorted(rows.tolist()) == sorted(numbers)
    assert torch.equal(memory.last_loss, rows.float())  # each loss stays with its sample
    assert memory.times_replayed.tolist() == [1] * len(memory)
    assert memory.composition() == Counter(memory.provenance[:, Column.TASK].tolist())
    assert sum(memory.composition().values()) == len(memory)


@every_memory
def test_every_slot_is_drawn_alike(name: str) -> None:
    memory = _memory(name, 40, seed=1)
    for start in range(0, 200, 20):
        memory.add(_batch(start, 20))
    counts: Counter[int] = Counter()
    for _ in range(1500):
        numbers = _numbers(memory.sample(4))
        assert len(set(numbers)) == 4
        counts.update(numbers)
    assert len(counts) == 40
    assert chisquare(list(counts.values())).pvalue > 1e-4
    assert sum(counts.values()) == memory.times_replayed.sum()


@every_memory
def test_more_than_it_holds_come_with_repetition(name: str) -> None:
    memory = _memory(name, 5, seed=2)
    memory.add(_batch(0, 3))
    counts = Counter(_numbers(memory.sample(3000)))
    assert set(counts) == {0, 1, 2}
    assert chisquare(list(counts.values())).pvalue > 1e-4


@every_memory
def test_flagged_samples_are_not_remembered(name: str) -> None:
    memory = _memory(name, 20)
    batch = _batch(0, 6)
    batch.provenance[1, Column.FLAGS] = SampleFlag.NO_REPLAY
    batch.provenance[4, Column.FLAGS] = SampleFlag.EVALUATE
    batch.provenance[5, Column.FLAGS] = 64  # some other bit
    memory.add(batch, torch.arange(6.0))
    assert sorted(_numbers(memory.sample(4))) == [0, 2, 3, 5]
    batch.provenance[:, Column.FLAGS] = SampleFlag.NO_REPLAY
    memory.add(batch)
    assert len(memory) == 4


@every_memory
def test_inputs_are_not_modified_and_what_comes_out_is_a_copy(name: str) -> None:
    memory, batch, losses = _memory(name, 8), _batch(0, 8), torch.rand(8)
    before = copy.deepcopy((dict(batch.fields), batch.provenance, losses))
    memory.add(batch, losses)
    sample = memory.sample(8)
    assert sample is not None
    for tensor in (*sample.fields.values(), sample.provenance):
        tensor.zero_()
    after = (dict(batch.fields), batch.provenance, losses)
    for old, new in zip(
        (*before[0].values(), *before[1:]), (*after[0].values(), *after[1:]), strict=True
    ):
        assert torch.equal(old, new)
    assert sorted(_numbers(memory.sample(8))) == list(range(8))


@every_memory
@pytest.mark.parametrize("device", _DEVICES, ids=str)
def test_dtype_shape_and_device_are_kept(name: str, device: torch.device) -> None:
    memory, batch = _memory(name, 6, device=device), _batch(0, 20, device=device)
    memory.add(batch, torch.rand(20, device=device))
    sample = memory.sample(5)
    assert sample is not None
    for field, tensor in batch.fields.items():
        assert sample.fields[field].dtype == tensor.dtype
        assert sample.fields[field].shape == (5, *tensor.shape[1:])
        assert sample.fields[field].device.type == device.type
    assert sample.provenance.device == _CPU
    assert memory.last_loss.device.type == device.type
    _numbers(sample)


@every_memory
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_of_a_stream_comes_back_bit_for_bit(name: str, dtype: str) -> None:
    batch, memory = _batch(0, 4), _memory(name, 4)
    bits = torch.randint(2, (4, 16), dtype=torch.uint8)
    memory.add(batch.with_fields({**batch.fields, "bits": bits.view(getattr(torch, dtype))}))
    sample = memory.sample(4)
    assert sample is not None
    assert sample.fields["bits"].dtype == getattr(torch, dtype)
    assert torch.equal(sample.fields["bits"].view(torch.uint8), bits[_numbers(sample)])


@every_memory
def test_rows_of_a_strided_block_and_losses_with_a_gradient_are_welcome(name: str) -> None:
    memory, batch = _memory(name, 8), _batch(0, 4)
    block = torch.zeros(4, 2, 3, 2)
    block[..., 0] = batch.fields["x"]
    losses = torch.rand(4, requires_grad=True)
    memory.add(batch.with_fields({**batch.fields, "x": block[..., 0]}), losses)
    assert sorted(_numbers(memory.sample(4))) == [0, 1, 2, 3]
    assert not memory.last_loss.requires_grad
    memory.add(_batch(4, 1))
    assert torch.isnan(memory.last_loss[4])


def _from_numpy(batch: Batch) -> tuple[Batch, list[weakref.ref[Any]]]:
    """The same batch in arrays, which live as long as a storage made of them does."""
    arrays = {name: t.clone().view(torch.uint8).numpy() for name, t in batch.fields.items()}
    provenance = batch.provenance.clone().numpy()
    fields = {
        name: torch.from_numpy(arrays[name]).view(tensor.dtype)
        for name, tensor in batch.fields.items()
    }
    refs = [weakref.ref(array) for array in (*arrays.values(), provenance)]
    return Batch(fields, torch.from_numpy(provenance), batch.fresh_rows), refs


@every_memory
def test_no_source_batch_is_kept_alive(name: str) -> None:
    memory, refs = _memory(name, 10), []
    for start in range(0, 40, 4):  # filling and replacing
        batch, of_batch = _from_numpy(_batch(start, 4))
        costs = np.full(4, 0.5, np.float32)
        memory.add(batch, torch.from_numpy(costs))
        memory.sample(3)
        refs += [*of_batch, weakref.ref(costs)]
        del batch, costs
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


@every_memory
def test_losses_of_what_was_drawn_come_back(name: str) -> None:
    memory = _memory(name, 6)
    memory.add(_batch(0, 6), torch.arange(6.0))
    assert memory.last_sampled.tolist() == []
    sample = memory.sample(3)
    assert sample is not None
    assert memory.provenance[memory.last_sampled, Column.ROW].tolist() == _numbers(sample)
    memory.update_losses(memory.last_sampled, torch.tensor([7.0, 8.0, 9.0], requires_grad=True))
    told = dict(zip(memory.last_sampled.tolist(), [7.0, 8.0, 9.0], strict=True))
    assert memory.last_loss.tolist() == [told.get(slot, float(slot)) for slot in range(6)]
    memory.update_losses(np.zeros(0, np.int64), torch.zeros(0))
    with pytest.raises(InternalError, match="2 losses came for 3 remembered samples"):
        memory.update_losses(memory.last_sampled, torch.zeros(2))


@every_memory
def test_looking_at_samples_is_not_replaying_them(name: str) -> None:
    memory = _memory(name, 6)
    memory.add(_batch(0, 6))
    slots = memory.draw(4)
    assert sorted(_numbers(memory.read(slots))) == sorted(slots.tolist())
    assert memory.times_replayed.sum() == 0
    assert _numbers(memory.give_back(slots[2:])) == slots[2:].tolist()
    assert memory.times_replayed.sum() == 2
    assert memory.last_sampled.tolist() == slots[2:].tolist()
    assert len(memory.draw(0)) == 0


@every_memory
def test_unlabelled_samples_and_more_classes_than_slots_are_remembered(name: str) -> None:
    memory = _memory(name, 2)
    plain = _batch(0, 6)
    memory.add(plain.with_fields({**plain.fields, "y": torch.tensor([0, 1, 2, 0, 1, 2])}))
    assert len(memory) == 2
    if name != "gss":  # a loss, and so a gradient, needs a label
        more = _batch(6, 6)
        memory.add(more.with_fields({**more.fields, "y": torch.full((6,), -1)}))
        assert len(memory) == 2
    assert len(set(memory.provenance[:, Column.ROW].tolist())) == 2


@every_memory
@settings(max_examples=25)
@given(sizes=st.lists(st.integers(0, 9), max_size=12))
def test_what_is_in_it_is_told_exactly(name: str, sizes: list[int]) -> None:
    memory, added, now_ns = _memory(name, 10), 0, 10**12
    memory.keep_in(SampleStore(10, _CPU, labels=lambda batch: batch.fields["y"]))
    for task, rows in enumerate(sizes):
        batch = _batch(added, rows, task)
        batch.provenance[:, Column.PRODUCER] = task % 2
        batch.provenance[:, Column.PRODUCED_AT_NS] = now_ns - 10**9 * (100 - task)
        memory.add(batch)
        added += rows
    found = composition([memory.contents()], now_ns)
    assert found.samples == len(memory)
    tasks = memory.provenance[:, Column.TASK]
    assert found.by_task == memory.composition() == Counter(tasks.tolist())
    assert found.by_producer == Counter((tasks % 2).tolist())
    assert found.by_class == Counter((memory.provenance[:, Column.ROW] % 3).tolist())
    since = sorted(sum(sizes[task + 1 :]) for task in tasks.tolist())
    ages = sorted(100.0 - task for task in tasks.tolist())
    for told, all_of_them in ((found.age_samples, since), (found.age_seconds, ages)):
        if not all_of_them:
            assert told == {}
            continue
        assert (told[0.0], told[1.0]) == pytest.approx((all_of_them[0], all_of_them[-1]))
        middle = told[0.5]
        assert sum(age < middle - 1e-6 for age in all_of_them) <= len(all_of_them) / 2
        assert sum(age > middle + 1e-6 for age in all_of_them) <= len(all_of_them) / 2


def test_contents_of_several_memories_add_up() -> None:
    one, other = _memory("reservoir", 4), _memory("reservoir", 4)
    one.add(_batch(0, 4, task=1))
    other.add(_batch(0, 3, task=2))
    found = composition([one.contents(), other.contents()], 0)
    assert (found.samples, found.by_task, found.by_class) == (7, {1: 4, 2: 3}, {})
    assert composition([], 0).age_seconds == {}


def _play(memory: Memory, steps: range) -> list[Any]:
    out: list[Any] = []
    for step in steps:
        losses = torch.rand(step % 9, generator=torch.Generator().manual_seed(step))
        memory.add(_batch(step * 7, step % 9, task=step // 10), losses)
        memory.update_losses(memory.last_sampled, torch.full((len(memory.last_sampled),), 0.1))
        sample = memory.sample(5)
        out.append(None if sample is None else _numbers(sample))
    return out


@every_memory
def test_a_seed_makes_everything_repeatable(name: str) -> None:
    first, second = (_play(_memory(name, 30, seed=4), range(60)) for _ in range(2))
    assert first == second
    assert first != _play(_memory(name, 30, seed=5), range(60))


@every_memory
@pytest.mark.parametrize("steps", [0, 3, 25])
def test_a_loaded_state_goes_on_bit_identically(name: str, steps: int) -> None:
    memory, loaded = _memory(name, 30, seed=4), _memory(name, 30, seed=77)
    _play(memory, range(steps))
    _play(loaded, range(11))  # what was there before is forgotten
    loaded.load_state_dict(copy.deepcopy(memory.state_dict()))
    _assert_same(memory.state_dict(), loaded.state_dict())
    assert _play(memory, range(steps, 60)) == _play(loaded, range(steps, 60))
    assert memory.composition() == loaded.composition()


def _assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_same(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(bits(one), bits(other))
    else:
        assert one == other


@every_memory
def test_a_capacity_of_one_always_holds_one(name: str) -> None:
    memory = _memory(name, 1, seed=6)
    seen = set()
    for start in range(0, 60, 3):
        memory.add(_batch(start, 3))
        numbers = _numbers(memory.sample(1))
        assert len(memory) == 1
        assert numbers[0] < start + 3
        seen.update(numbers)
    assert len(seen) > 1


@every_memory
def test_wrong_states_and_sizes_are_refused(name: str) -> None:
    with pytest.raises(OperatorError, match="a memory of 0 samples"):
        _memory(name, 0)
    memory = _memory(name, 10)
    memory.add(_batch(0, 10))
    state = memory.state_dict()
    with pytest.raises(OperatorError, match=r"holds 10 samples; allowed: at most .* 9"):
        _memory(name, 9).load_state_dict(state)
    with pytest.raises(OperatorError, match="surprise"):
        _memory(name, 10).load_state_dict({**state, "surprise": 1})
    with pytest.raises(OperatorError, match="the saved memory is a Other"):
        _memory(name, 10).load_state_dict({**state, "policy": {"Other": {}}})
    samples = {**state["samples"], "more": 1}
    with pytest.raises(OperatorError, match=r"wrong keys: \['more'\]"):
        _memory(name, 10).load_state_dict({**state, "samples": samples})
    policy = {type(memory).__name__: {"unknown": 1}}
    with pytest.raises(OperatorError, match="unknown"):
        _memory(name, 10).load_state_dict({**state, "policy": policy})


@every_memory
def test_a_stream_of_other_fields_is_our_fault(name: str) -> None:
    memory = _memory(name, 10)
    memory.add(_batch(0, 2))
    with pytest.raises(InternalError, match="was given"):
        memory.add(Batch.of({"y": torch.zeros(2, dtype=torch.int64)}))


@every_memory
def test_an_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(OperatorError, match="surprise: no such option"):
        catalogue("insitu.memory")[name].check({"surprise": 1})
