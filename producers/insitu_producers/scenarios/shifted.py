"""Shifted images: the same labels, the images moved further to the right in every task.

What leaves at one side comes in at the other, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np

from insitu_producers.images.labelled import Images, LabelledImages
from insitu_producers.scenarios.transformed import check_tasks, transformed
from insitu_producers.sources.task_stream import TaskStream


def shifted(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "places, the first being that of the set"] = 2,
    pixels_per_task: Annotated[int, "further shift of every task"] = 2,
    images_per_task: Annotated[int, "drawn for each task; 0: all"] = 0,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
) -> TaskStream:
    """The set at one place after the other."""
    check_tasks(tasks)
    shifts = [pixels_per_task * task for task in range(tasks)]
    return transformed(
        "shifted",
        images,
        {f"{pixels} pixels": shift(pixels) for pixels in shifts},
        np.random.default_rng(seed),
        images_per_task=images_per_task,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


def shift(pixels: int) -> Callable[[Images], Images]:
    """Moves images to the right, around the edge."""
    return lambda images: np.roll(images, pixels, axis=-1)


SCENARIO = shifted
