"""Drawn classes: every task brings a few classes, drawn from all, so classes may come back.

As the streams on which Hebbian networks were compared (R. Casciotti, "Brain-inspired continual
learning in Hebbian deep neural networks", Politecnico di Milano, 2025). Labels are those of the
set, and the task is not known when the model is asked.

Every image comes once: where a class comes in several tasks, each gets its share of the images.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.images.labelled import Indices, LabelledImages
from insitu_producers.scenarios.image_tasks import ImageTask, of_classes, stream_of, task_name
from insitu_producers.sources.task_stream import TaskStream


def drawn_classes(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "tasks"] = 8,
    classes_per_task: Annotated[int, "classes of a task, all different"] = 2,
    repeat: Annotated[bool, "whether a class may come in several tasks"] = True,
    images_per_class: Annotated[int, "most images of a class in a task; 0: all there are"] = 0,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
) -> TaskStream:
    """Tasks of classes that the seed draws, one after the other.

    Example:
        >>> x, y = np.zeros((20, 1, 2, 2), np.uint8), np.arange(20) % 4
        >>> images = LabelledImages.in_one_part("toy", x, y, tuple("abcd"))
        >>> drawn_classes(images, seed=1, tasks=3).tasks
        ('0: a+b', '1: a+d', '2: a+d')
    """
    generator = np.random.default_rng(seed)
    groups = _groups(images.classes, tasks, classes_per_task, repeat, generator)
    shares = _shares(images, groups, generator)
    parts = []
    for number, classes in enumerate(groups):
        own = [shares[number][c][: images_per_class or None] for c in classes]
        parts.append(
            ImageTask(
                f"{number}: {task_name(classes, images.class_names)}",
                generator.permutation(np.concatenate(own)),
                of_classes(images.held_out_y, classes),
            )
        )
    return stream_of(
        "drawn classes",
        images,
        parts,
        classes=images.classes,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


def _groups(
    classes: int, tasks: int, per_task: int, repeat: bool, generator: np.random.Generator
) -> list[list[int]]:
    """The classes of every task."""
    needed = per_task if repeat else tasks * per_task
    if tasks < 1 or per_task < 1 or needed > classes:
        raise OperatorError(
            f"{tasks} tasks of {per_task} classes{'' if repeat else ' without repetition'} are to "
            f"be drawn from {classes}",
            allowed="1 task or more, of 1 class or more, and no more classes than there are",
        )
    if not repeat:
        drawn = generator.permutation(classes)[: tasks * per_task].tolist()
        return [drawn[start : start + per_task] for start in range(0, len(drawn), per_task)]
    return [generator.permutation(classes)[:per_task].tolist() for _ in range(tasks)]


def _shares(
    images: LabelledImages, groups: list[list[int]], generator: np.random.Generator
) -> list[dict[int, Indices]]:
    """By task, the images of each of its classes: every image in one task at most."""
    shares: list[dict[int, Indices]] = [{} for _ in groups]
    for label in range(images.classes):
        having = [number for number, classes in enumerate(groups) if label in classes]
        if not having:
            continue
        own = generator.permutation(of_classes(images.y, [label]))
        for number, part in zip(having, np.array_split(own, len(having)), strict=True):
            shares[number][label] = part
    return shares


SCENARIO = drawn_classes
