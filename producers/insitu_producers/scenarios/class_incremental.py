"""Class incremental: every task brings classes of its own, and all are told apart by one output.

Van de Ven and Tolias, "Three scenarios for continual learning" (2019): the task is not known when
the model is asked. Labels are those of the set.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from insitu_producers.images.labelled import LabelledImages
from insitu_producers.scenarios.image_tasks import (
    ImageTask,
    groups_of_classes,
    of_classes,
    stream_of,
    task_name,
)
from insitu_producers.sources.task_stream import TaskStream


def class_incremental(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "tasks that the classes are divided into, evenly"] = 5,
    shuffle_classes: Annotated[bool, "whether the seed chooses which classes go together"] = False,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
) -> TaskStream:
    """Groups of classes, one after the other.

    Example:
        >>> x, y = np.zeros((20, 1, 2, 2), np.uint8), np.arange(20) % 4
        >>> images = LabelledImages.in_one_part("toy", x, y, tuple("abcd"))
        >>> stream = class_incremental(images, seed=0, tasks=2)
        >>> [(push.task, sorted(set(push.fields["y"].tolist()))) for push in stream]
        [('a+b', [0, 1]), ('c+d', [2, 3])]
    """
    generator = np.random.default_rng(seed)
    parts = [
        ImageTask(
            task_name(classes, images.class_names),
            generator.permutation(of_classes(images.y, classes)),
            of_classes(images.held_out_y, classes),
        )
        for classes in groups_of_classes(images, tasks, shuffle_classes, generator)
    ]
    return stream_of(
        "class incremental",
        images,
        parts,
        classes=images.classes,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


SCENARIO = class_incremental
