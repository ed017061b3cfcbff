"""Scenarios: every image once in its task, labels and pictures as the scenario says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from insitu.errors import OperatorError
from insitu_producers.images.labelled import LabelledImages
from insitu_producers.scenarios.rotated import rotation
from insitu_producers.sources.catalogue import open_stream, stream_names
from insitu_producers.sources.declared import find, names
from insitu_producers.sources.feed import Push
from insitu_producers.sources.options import checked, options_of, read_words
from insitu_producers.sources.task_stream import JOINT, TaskStream

CLASSES, PER_CLASS = 10, 12


def numbered(held_out: int = 3) -> LabelledImages:
    """Images that carry their own number in their first pixel, so that each can be followed."""
    rows = CLASSES * PER_CLASS

    def part(count: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.zeros((count, 1, 2, 3), np.float32)
        x[:, 0, 0, 0] = np.arange(first, first + count)
        return x, np.arange(count) % CLASSES

    x, y = part(rows, 1)
    held_out_x, held_out_y = part(held_out * CLASSES, 1 + rows)
    classes = tuple(map(str, range(CLASSES)))
    return LabelledImages("toy", x, y, held_out_x, held_out_y, classes)


def numbers(push: Push) -> list[int]:
    return [int(value) for value in push.fields["x"].reshape(push.rows, -1).max(axis=1)]


def stream_of(scenario: str, **options: Any) -> TaskStream:
    stream: TaskStream = find("scenarios", scenario)(numbered(), **{"seed": 0, **options})
    return stream


@pytest.mark.parametrize("scenario", names("scenarios"))
@pytest.mark.parametrize("probes_first", [True, False])
def test_every_scenario_keeps_the_contract(scenario: str, probes_first: bool) -> None:
    stream = stream_of(scenario, rows_per_push=7, probes_first=probes_first)
    pushes = list(stream)
    assert list(dict.fromkeys(push.task for push in pushes)) == list(stream.tasks)
    training = [push for push in pushes if not push.evaluate]
    assert sum(push.rows for push in training) == stream.training_samples
    assert [push.cursor for push in pushes] == sorted(push.cursor for push in pushes)
    assert training[-1].cursor == stream.training_samples
    order = [push.evaluate for push in pushes]
    if probes_first:
        assert order == sorted(order, reverse=True)
    else:
        ends = [push.evaluate for push in pushes if push.task == stream.tasks[1]]
        assert ends == sorted(ends, reverse=True)
    for push in pushes:
        assert 0 < push.rows <= 7
        assert {n: (str(a.dtype), a.shape[1:]) for n, a in push.fields.items()} == stream.fields
        assert push.fields["y"].min() >= 0
        assert push.fields["y"].max() < stream.classes
    # the same again, and another seed is another order
    for one, other in zip(pushes, stream, strict=True):
        np.testing.assert_array_equal(one.fields["x"], other.fields["x"])
    other = stream_of(scenario, seed=1, rows_per_push=7)
    first = np.concatenate([push.fields["x"] for push in training])
    second = np.concatenate([push.fields["x"] for push in other if not push.evaluate])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    "scenario", ["class_incremental", "domain_incremental", "task_incremental", "blurry"]
)
def test_every_image_comes_once_and_held_out_ones_are_never_trained(scenario: str) -> None:
    stream = stream_of(scenario)
    trained = [n for push in stream if not push.evaluate for n in numbers(push)]
    probes = [n for push in stream if push.evaluate for n in numbers(push)]
    assert sorted(trained) == list(range(1, 1 + CLASSES * PER_CLASS))
    assert sorted(probes) == list(range(1 + CLASSES * PER_CLASS, 1 + CLASSES * (PER_CLASS + 3)))


@given(tasks=st.sampled_from([1, 2, 5, 10]), shuffle=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_class_incremental_tasks_share_no_class(tasks: int, shuffle: bool, seed: int) -> None:
    stream = stream_of("class_incremental", tasks=tasks, shuffle_classes=shuffle, seed=seed)
    classes: dict[str, set[int]] = {}
    for push in stream:
        classes.setdefault(push.task, set()).update(push.fields["y"].tolist())
        for number, label in zip(numbers(push), push.fields["y"], strict=True):
            assert (number - 1) % CLASSES == label
    assert sorted(label for group in classes.values() for label in group) == list(range(CLASSES))
    assert {len(group) for group in classes.values()} == {CLASSES // tasks}
    if not shuffle:
        assert [min(group) for group in classes.values()] == list(range(0, 10, CLASSES // tasks))


@given(
    tasks=st.integers(1, 8),
    per_task=st.integers(1, 4),
    repeat=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_drawn_classes_come_back_and_no_image_does(
    tasks: int, per_task: int, repeat: bool, seed: int
) -> None:
    options: dict[str, Any] = {"tasks": tasks, "classes_per_task": per_task, "repeat": repeat}
    if not repeat and tasks * per_task > CLASSES:
        with pytest.raises(OperatorError, match="without repetition"):
            stream_of("drawn_classes", seed=seed, **options)
        return
    stream = stream_of("drawn_classes", seed=seed, **options)
    trained: dict[str, list[int]] = {task: [] for task in stream.tasks}
    classes: dict[str, set[int]] = {task: set() for task in stream.tasks}
    asked: dict[str, set[int]] = {task: set() for task in stream.tasks}
    for push in stream:
        labels = {int(label) for label in push.fields["y"]}
        (asked if push.evaluate else classes)[push.task].update(labels)
        if not push.evaluate:
            trained[push.task].extend(numbers(push))
    assert asked == classes
    assert {len(group) for group in classes.values()} == {per_task}
    together = [number for group in trained.values() for number in group]
    used = set().union(*classes.values())
    assert len(together) == len(set(together)) == PER_CLASS * len(used)
    if not repeat:
        assert len(used) == tasks * per_task


@pytest.mark.parametrize("scenario", ["domain_incremental", "task_incremental"])
def test_labels_within_the_task_tell_even_from_odd(scenario: str) -> None:
    stream = stream_of(scenario, tasks=5)
    assert (stream.classes, stream.scenario) == (2, scenario.replace("_", " "))
    for push in stream:
        for number, label in zip(numbers(push), push.fields["y"], strict=True):
            assert label == (number - 1) % CLASSES % 2


def test_classes_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(OperatorError, match="10 classes cannot be divided into 3"):
        stream_of("class_incremental", tasks=3)
    with pytest.raises(OperatorError, match="rows_per_push is 0"):
        stream_of("class_incremental", rows_per_push=0)
    with pytest.raises(OperatorError, match="stray_ratio is 2"):
        stream_of("blurry", stray_ratio=2.0)
    with pytest.raises(OperatorError, match="tasks is 0"):
        stream_of("permuted", tasks=0)
    with pytest.raises(OperatorError, match="images_per_task is 500"):
        stream_of("shifted", images_per_task=500)


def large(seed: int, **options: Any) -> TaskStream:
    rows = 10_000
    x = np.arange(rows, dtype=np.float32).reshape(-1, 1, 1, 1)
    names_of = tuple(map(str, range(10)))
    images = LabelledImages.in_one_part("large", x, np.arange(rows) % 10, names_of)
    stream: TaskStream = find("scenarios", "blurry")(
        images, seed=seed, shuffle_classes=False, rows_per_push=100, **options
    )
    return stream


@pytest.mark.parametrize("seed", [0, 1])
def test_blurry_strays_go_to_every_other_task_alike(seed: int) -> None:
    """A tenth of each class leaves home, and where to is uniform over the other tasks."""
    homes, strays = np.zeros(10, int), np.zeros((5, 5), int)
    for push in large(seed, stray_ratio=0.1):
        place = int(push.task.removeprefix("stretch-"))
        for label in push.fields["y"].tolist():
            if label // 2 == place:
                homes[label] += 1
            else:
                strays[label // 2, place] += 1
    assert homes.tolist() == [900] * 10
    others = strays[~np.eye(5, dtype=bool)].reshape(5, 4)
    assert others.sum(axis=1).tolist() == [200] * 5
    assert stats.chisquare(others.ravel()).pvalue > 1e-4
    assert others.min() > 0


def test_disjoint_classes_never_stray() -> None:
    places: dict[int, set[str]] = {}
    for push in large(3, stray_ratio=0.5, disjoint_ratio=0.4):
        for label in set(push.fields["y"].tolist()):
            places.setdefault(label, set()).add(push.task)
    assert Counter(len(where) for where in places.values()) == {1: 4, 5: 6}


def test_permutations_differ_by_task_and_hold_within_one() -> None:
    random = np.random.default_rng(0)
    x = random.random((30, 2, 4, 4)).astype(np.float32)
    images = LabelledImages("toy", x, np.arange(30) % 3, x[:5], np.arange(5) % 3, ("a", "b", "c"))
    stream = find("scenarios", "permuted")(images, seed=0, tasks=3)
    found: dict[str, np.ndarray] = {}
    for push in stream:
        for image in push.fields["x"].reshape(push.rows, -1):
            original = x[np.flatnonzero((np.sort(x.reshape(30, -1)) == np.sort(image)).all(1))[0]]
            order = np.array([np.flatnonzero(original.ravel() == value)[0] for value in image])
            np.testing.assert_array_equal(found.setdefault(push.task, order), order)
    assert found["permutation-0"].tolist() == list(range(32))
    assert len({tuple(order) for order in found.values()}) == 3


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0, 217.0])
def test_rotation_is_that_of_scipy(degrees: float) -> None:
    images = np.random.default_rng(0).random((3, 2, 9, 9))
    expected = ndimage.rotate(
        images, degrees, axes=(3, 2), reshape=False, order=1, mode="grid-constant"
    )
    turned = rotation(9, 9, degrees)(images)
    np.testing.assert_allclose(turned, expected, atol=1e-6)
    whole = (images * 255).astype(np.uint8)
    turned_whole = rotation(9, 9, degrees)(whole)
    assert turned_whole.dtype == np.uint8
    assert np.abs(turned_whole - rotation(9, 9, degrees)(whole.astype(float))).max() <= 0.5 + 1e-9


def test_shifted_images_lose_nothing() -> None:
    stream = stream_of("shifted", tasks=2, pixels_per_task=1)
    for push in stream:
        column = 0 if push.task == "0 pixels" else 1
        assert (push.fields["x"][:, 0, 0, column] > 0).all()


def test_together_the_tasks_are_one_in_random_order() -> None:
    stream = stream_of("class_incremental")
    joined = stream.joined(seed=4)
    pushes = list(joined)
    trained = [n for push in pushes if not push.evaluate for n in numbers(push)]
    assert {push.task for push in pushes if not push.evaluate} == {JOINT} == set(joined.tasks)
    assert sorted(trained) == list(range(1, 1 + CLASSES * PER_CLASS))
    labels = [(n - 1) % CLASSES for n in trained]
    assert len(set(labels[:30])) > 6, "classes come mixed"
    for push in pushes:
        for number, label in zip(numbers(push), push.fields["y"], strict=True):
            assert label == (number - 1) % CLASSES
    probes = [n for push in pushes if push.evaluate for n in numbers(push)]
    assert probes == [n for push in stream if push.evaluate for n in numbers(push)]


def test_streams_are_found_by_name_and_their_options_checked() -> None:
    assert {"eight_gaussians", "drifting_gray_scott", "digits/permuted"} <= set(stream_names())
    stream = open_stream(
        "digits/class_incremental", seed=0, options={"tasks": "2", "images_per_class": "9"}
    )
    assert (stream.tasks, stream.training_samples, stream.classes) == (("0-4", "5-9"), 90, 10)
    assert stream.fields == {"x": ("float32", (1, 8, 8)), "y": ("int64", ())}
    with pytest.raises(OperatorError, match=r"no option 'taks'.*did you mean tasks"):
        open_stream("digits/blurry", seed=0, options={"taks": 2})
    with pytest.raises(OperatorError, match="sources has no 'gausians'"):
        open_stream("gausians", seed=0)
    with pytest.raises(OperatorError, match="images has no 'digit'"):
        open_stream("digit/blurry", seed=0)
    options = options_of(find("scenarios", "blurry"))
    assert checked("blurry", options, {"shuffle_classes": "false", "tasks": 2}) == {
        "shuffle_classes": False,
        "tasks": 2,
    }
    with pytest.raises(OperatorError, match="allowed: a value of type int"):
        checked("blurry", options, {"tasks": "two"})
    with pytest.raises(OperatorError, match="NAME=VALUE"):
        read_words(["tasks"])
