"""Task incremental: every task has classes of its own, and the task is known when asked.

Van de Ven and Tolias, "Three scenarios for continual learning" (2019). The rows are those of the
domain-incremental scenario, labels within the task; what differs is the objective, which has a
head for each task and takes the task from the sample (`multi_head`).
"""

from __future__ import annotations

from typing import Annotated

from insitu_producers.images.labelled import LabelledImages
from insitu_producers.scenarios.domain_incremental import domain_incremental
from insitu_producers.sources.task_stream import TaskStream


def task_incremental(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "tasks that the classes are divided into, evenly"] = 5,
    shuffle_classes: Annotated[bool, "whether the seed chooses which classes go together"] = False,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
) -> TaskStream:
    """Groups of classes, one after the other, labelled within their group."""
    return domain_incremental(
        images,
        seed=seed,
        tasks=tasks,
        shuffle_classes=shuffle_classes,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
        scenario="task incremental",
    )


SCENARIO = task_incremental
