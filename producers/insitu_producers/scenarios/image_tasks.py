"""From tasks of images to their pushes: what all scenarios share.

A scenario says which images belong to a task and what it makes of images and labels. Probes, the
held-out images, come before everything else by default: then every task is measured from the
first on, also before it was learned, as forward transfer needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.images.labelled import Images, Indices, LabelledImages, Labels
from insitu_producers.sources.feed import Push
from insitu_producers.sources.task_stream import TaskStream, check_rows_per_push

#: more would make names of tasks that no table has room for
_NAMED_CLASSES = 4


def unchanged(images: Images) -> Images:
    """The images as they are."""
    return images


def own_labels(labels: Labels) -> Labels:
    """The labels of the set."""
    return labels


@dataclass(frozen=True)
class ImageTask:
    """One task.

    Args:
        name: of the task.
        training: indices of its images to train, in the order of the stream.
        held_out: indices of its held-out images.
        of_images, of_labels: what the task makes of them, row by row.
    """

    name: str
    training: Indices
    held_out: Indices
    of_images: Callable[[Images], Images] = unchanged
    of_labels: Callable[[Labels], Labels] = own_labels


def stream_of(
    scenario: str,
    images: LabelledImages,
    tasks: Sequence[ImageTask],
    *,
    classes: int,
    rows_per_push: int,
    probes_first: bool,
) -> TaskStream:
    """The stream of these tasks, one after the other; every image comes once in its task."""
    check_rows_per_push(rows_per_push)
    held_out = images.held_out_x, images.held_out_y

    def pieces(
        task: ImageTask, index: Indices, arrays: tuple[Images, Labels]
    ) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(index), rows_per_push):
            rows = index[start : start + rows_per_push]
            yield {"x": task.of_images(arrays[0][rows]), "y": task.of_labels(arrays[1][rows])}

    def probes(task: ImageTask) -> Iterator[Push]:
        for fields in pieces(task, task.held_out, held_out):
            yield Push(fields, task.name, True, 0)

    def pushes() -> Iterator[Push]:
        cursor = 0
        if probes_first:
            for task in tasks:
                yield from probes(task)
        for task in tasks:
            if not probes_first:
                yield from (Push(p.fields, p.task, True, cursor) for p in probes(task))
            for fields in pieces(task, task.training, (images.x, images.y)):
                cursor += len(fields["y"])
                yield Push(fields, task.name, False, cursor)

    return TaskStream(
        f"{images.name}-{scenario.replace(' ', '-')}",
        scenario,
        {"x": (str(images.x.dtype), images.shape), "y": ("int64", ())},
        tuple(task.name for task in tasks),
        classes,
        sum(len(task.training) for task in tasks),
        pushes,
    )


def groups_of_classes(
    images: LabelledImages, tasks: int, shuffle_classes: bool, generator: np.random.Generator
) -> list[list[int]]:
    """The classes of every task, as many in each.

    Raises:
        OperatorError: they cannot be divided so.
    """
    if tasks < 1 or images.classes % tasks:
        divisors = [n for n in range(1, images.classes + 1) if images.classes % n == 0]
        raise OperatorError(
            f"{images.classes} classes cannot be divided into {tasks} tasks",
            allowed=", ".join(map(str, divisors)),
        )
    classes = list(range(images.classes))
    if shuffle_classes:
        classes = generator.permutation(images.classes).tolist()
    size = images.classes // tasks
    return [classes[start : start + size] for start in range(0, images.classes, size)]


def task_name(classes: Sequence[int], names: Sequence[str] = ()) -> str:
    """What a task of these classes is called, in the order of their labels.

    Up to four classes are called by their names, where the names are words; else `0-1` stands
    for neighbours, `3+7` for others.

    Args:
        names: of all classes of the set, by label.

    Example:
        >>> task_name([4, 5, 6]), task_name([3]), task_name([7, 2])
        ('4-6', '3', '2+7')
        >>> task_name([2, 0], ("bird", "cat", "ship"))
        'bird+ship'
    """
    ordered = sorted(classes)
    if len(ordered) <= _NAMED_CLASSES and len(names) > ordered[-1]:
        words = [names[label] for label in ordered]
        if not any(word.isdecimal() for word in words):
            return "+".join(words)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}-{ordered[-1]}"
    return "+".join(map(str, ordered))


def of_classes(labels: Labels, classes: Sequence[int]) -> Indices:
    """Indices of all rows of some classes."""
    return np.flatnonzero(np.isin(labels, classes))
