"""Segments: what the producers' tasks are cut into, and a trainer that cuts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.batch import Batch, Column
from insitu.component import catalogue
from insitu.detection import DriftWatch
from insitu.errors import OperatorError
from insitu.segments import EndedTask, Segments
from insitu.strategies.base import Strategy
from insitu.trainer import Trainer
from learning import Setup, assert_same, copied, make_batch, mapped


def batch_of(*tasks: int) -> Batch:
    batch = Batch.of({"x": torch.zeros(len(tasks), 1)})
    batch.provenance[:, Column.TASK] = torch.tensor(tasks)
    return batch


def tasks_of(batch: Batch) -> list[int]:
    return batch.column(Column.TASK).tolist()


def trained(segments: Segments, *tasks: int) -> list[int]:
    batch = batch_of(*tasks)
    relabelled = segments.relabel(batch)
    segments.count(batch)
    return tasks_of(relabelled)


def test_until_a_boundary_a_batch_goes_through_as_it_is() -> None:
    segments, batch = Segments(), batch_of(3, 0, 3)
    assert segments.relabel(batch) is batch
    segments.count(batch)
    assert segments.names(("a", "b", "c", "d")) == ("a", "b", "c", "d")
    assert [segments.index_of(task) for task in range(6)] == [0, 1, 2, 3, 4, 5]


def test_a_boundary_ends_what_had_rows_and_leaves_the_rest() -> None:
    segments = Segments()
    trained(segments, 0, 0, 1)
    segments.index_of(2)  # known, and without a row
    assert segments.declare_boundary() == (EndedTask(0, 2), EndedTask(1, 1))
    assert sorted(trained(segments, 2, 1, 0)) == [2, 3, 4]
    assert set(segments.names(("a", "b", "c"))) == {"a", "b", "c", "a#2", "b#2"}
    ended = segments.declare_boundary()
    assert {each.task for each in ended} == {2, 3, 4}


def test_batches_are_not_written_to_and_replayed_rows_keep_their_index() -> None:
    segments = Segments()
    trained(segments, 0)
    segments.declare_boundary()
    batch = batch_of(0, 0).joined(batch_of(0))
    before = batch.provenance.clone()
    assert tasks_of(segments.relabel(batch)) == [1, 1, 0]
    assert torch.equal(batch.provenance, before)


def test_a_boundary_where_nothing_was_is_none() -> None:
    segments = Segments()
    assert segments.declare_boundary() == ()
    trained(segments, 0)
    assert segments.declare_boundary() == (EndedTask(0, 1),)
    assert segments.declare_boundary() == ()
    assert segments.boundaries == 1


def test_a_producers_end_is_of_the_newest_segment_with_rows() -> None:
    segments = Segments()
    assert segments.end(7) == 7
    trained(segments, 0)
    segments.declare_boundary()
    assert segments.end(0) == 0  # the second segment has no row yet
    assert trained(segments, 0) == [1]
    assert segments.end(0) == 1
    assert segments.end(0) == 1
    assert segments.declare_boundary() == ()  # it has ended already
    assert trained(segments, 0) == [1]  # and it comes back


def test_names_of_producers_that_look_like_segments_stay_apart() -> None:
    segments = Segments()
    trained(segments, 0, 1)
    segments.declare_boundary()
    trained(segments, 0)
    assert segments.names(("flow", "flow#2")) == ("flow", "flow#2", "flow##2")


Act = st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=1, max_size=5))


@given(st.lists(Act, max_size=20), st.integers(0, 20))
def test_segments_are_dense_distinct_and_resume(acts: list[Any], stop: int) -> None:
    """An index is of one task and one stretch between boundaries, for ever."""
    segments, other = Segments(), Segments()
    stretch: dict[int, int] = {}
    meaning: dict[int, tuple[int, int]] = {}
    for number, act in enumerate(acts):
        if number == stop:
            other.load_state_dict(segments.state_dict())
            assert other.state_dict() == segments.state_dict()
            segments = other
        if act is None:
            present = {meaning[each.task][0] for each in segments.declare_boundary()}
            for task in present:
                stretch[task] = stretch.get(task, 0) + 1
            continue
        for task, index in zip(act, trained(segments, *act), strict=True):
            key = task, stretch.get(task, 0)
            assert meaning.setdefault(index, key) == key
    assert len(set(meaning.values())) == len(meaning)
    names = segments.names([f"t{i}" for i in range(4)])
    assert len(set(names)) == len(names)
    assert all(names[i] == (f"t{t}#{s + 1}" if s else f"t{t}") for i, (t, s) in meaning.items())


def test_a_state_with_another_key_is_refused() -> None:
    with pytest.raises(OperatorError, match="surprise"):
        Segments().load_state_dict({**Segments().state_dict(), "surprise": 1})


# in a trainer


class Ends(Strategy):
    """Remembers what ended, and under which task rows came."""

    name = "ends"

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.seen: list[int] = []

    def observe(self, observation: Any) -> None:
        self.seen += tasks_of(observation.batch)

    def end_task(self, task: int) -> None:
        self.ended.append(task)

    def state_dict(self) -> dict[str, Any]:
        return {"ended": list(self.ended), "seen": list(self.seen)}

    def load_state_dict(self, state: Any) -> None:
        self.ended, self.seen = list(state["ended"]), list(state["seen"])


def watching(cooldown: int = 20) -> DriftWatch:
    detector = catalogue("insitu.detection")["page_hinkley"].build({}, {})
    return DriftWatch([(detector, cooldown)])


def learner(**options: Any) -> tuple[Trainer, Ends]:
    ends = Ends()
    made = Setup(schedule=None, further=lambda model: [ends], optimizer="SGD", learning_rate=0.5)
    return made.trainer(watch=watching(), **options), ends


def changing(step: int) -> Batch:
    """One task to the producers, whose labels change after 150 steps."""
    batch = make_batch("classify", 16, seed=step)
    labels = batch.fields["y"]
    return batch.with_fields({**batch.fields, "y": labels if step < 150 else (labels + 2) % 4})


def test_a_change_ends_the_task_and_what_follows_is_another() -> None:
    trainer, ends = learner()
    boundaries = {}
    for step in range(200):
        report = trainer.step(changing(step))
        if report.boundary is not None:
            boundaries[step] = report.boundary
    ((step, boundary),) = boundaries.items()
    assert 150 <= step < 180
    assert boundary.detectors == ("page_hinkley",)
    assert boundary.ended == (EndedTask(0, 16 * (step + 1)),)
    assert ends.ended == [0]
    assert ends.seen == [0] * (16 * (step + 1)) + [1] * (16 * (199 - step))
    assert trainer.end_task(0) == 1
    assert ends.ended == [0, 1]


def test_all_tasks_in_progress_end_and_those_without_rows_do_not() -> None:
    trainer, ends = learner()
    for step in range(4):
        batch = make_batch("classify", 6, seed=step)
        batch.provenance[:, Column.TASK] = torch.tensor([0, 2, 0, 2, 2, 2])
        trainer.step(batch)
    assert trainer.declare_boundary() == (EndedTask(0, 8), EndedTask(2, 16))
    assert ends.ended == [0, 2]
    assert trainer.declare_boundary() == ()
    assert ends.ended == [0, 2]
    trainer.step(make_batch("classify", 6, seed=9, task=1))
    assert trainer.declare_boundary() == (EndedTask(1, 6),)


def test_a_task_may_end_twice_or_never_have_been() -> None:
    trainer, ends = learner()
    trainer.step(make_batch("classify", 6, seed=0))
    assert [trainer.end_task(0), trainer.end_task(0), trainer.end_task(5)] == [0, 0, 5]
    assert ends.ended == [0, 0, 5]
    for wrong in ("0", 0.0, None, True, -1):
        with pytest.raises(OperatorError, match="whole number"):
            trainer.end_task(wrong)  # type: ignore[arg-type]
    assert ends.ended == [0, 0, 5]


def test_skipped_steps_are_neither_counted_nor_watched() -> None:
    trainer, _ = learner()
    trainer.step(make_batch("classify", 6, seed=0))
    before = copied(trainer.state_dict()["segments"]), copied(trainer.state_dict()["watch"])
    bad = make_batch("classify", 6, seed=1)
    bad = bad.with_fields({**bad.fields, "x": bad.fields["x"] * float("nan")})
    assert trainer.step(bad).skipped
    state = trainer.state_dict()
    assert_same(copied(state["segments"]), before[0])
    assert_same(copied(state["watch"]), before[1])


@pytest.mark.parametrize("stop", [100, 153, 170])
def test_a_resumed_run_is_the_same_bit_by_bit(stop: int) -> None:
    whole, _ = learner()
    parts, _ = learner()
    for step in range(stop):
        whole.step(changing(step))
        parts.step(changing(step))
    saved = mapped(parts.state_dict(), lambda tensor: tensor.detach().clone())
    resumed, _ = learner()
    resumed.load_state_dict(saved)
    for step in range(stop, 190):
        one, other = whole.step(changing(step)), resumed.step(changing(step))
        assert one.boundary == other.boundary
        assert torch.equal(one.losses, other.losses)
    assert_same(copied(whole.state_dict()), copied(resumed.state_dict()))
    assert whole.segments.boundaries == 1


def test_without_detection_nothing_is_watched_and_a_state_with_it_is_refused() -> None:
    with_it, _ = learner()
    without = Setup(schedule=None, further=lambda model: [Ends()], optimizer="SGD").trainer()
    assert without.state_dict()["watch"] is None
    with pytest.raises(OperatorError, match="watch"):
        without.load_state_dict(with_it.state_dict())
