"""Domain incremental: the same few labels in every task, of things that look different.

Van de Ven and Tolias, "Three scenarios for continual learning" (2019), on split sets: the classes
are divided as in the class-incremental scenario, and a label is the place of the class within its
task. With two neighbouring classes a task that is even against odd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np

from insitu_producers.images.labelled import LabelledImages, Labels
from insitu_producers.scenarios.image_tasks import (
    ImageTask,
    groups_of_classes,
    of_classes,
    stream_of,
    task_name,
)
from insitu_producers.sources.task_stream import TaskStream


def domain_incremental(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "tasks that the classes are divided into, evenly"] = 5,
    shuffle_classes: Annotated[bool, "whether the seed chooses which classes go together"] = False,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
    scenario: Annotated[str, "what it is called"] = "domain incremental",
) -> TaskStream:
    """Groups of classes, one after the other, labelled within their group.

    Example:
        >>> x, y = np.zeros((20, 1, 2, 2), np.uint8), np.arange(20) % 4
        >>> images = LabelledImages.in_one_part("toy", x, y, tuple("abcd"))
        >>> stream = domain_incremental(images, seed=0, tasks=2)
        >>> [(push.task, sorted(set(push.fields["y"].tolist()))) for push in stream]
        [('a+b', [0, 1]), ('c+d', [0, 1])]
    """
    generator = np.random.default_rng(seed)
    parts = [
        ImageTask(
            task_name(classes, images.class_names),
            generator.permutation(of_classes(images.y, classes)),
            of_classes(images.held_out_y, classes),
            of_labels=places_of(classes, images.classes),
        )
        for classes in groups_of_classes(images, tasks, shuffle_classes, generator)
    ]
    return stream_of(
        scenario,
        images,
        parts,
        classes=images.classes // tasks,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


def places_of(classes: Sequence[int], all_classes: int) -> Callable[[Labels], Labels]:
    """Maps labels of these classes to their places among them."""
    place = np.full(all_classes, -1, np.int64)
    place[list(classes)] = np.arange(len(classes))
    return lambda labels: place[labels]


SCENARIO = domain_incremental
