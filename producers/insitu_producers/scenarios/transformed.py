"""The whole set in every task, each time seen through another transformation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.images.labelled import Images, LabelledImages
from insitu_producers.scenarios.image_tasks import ImageTask, stream_of
from insitu_producers.sources.task_stream import TaskStream


def transformed(
    scenario: str,
    images: LabelledImages,
    of_images: Mapping[str, Callable[[Images], Images]],
    generator: np.random.Generator,
    *,
    images_per_task: int,
    rows_per_push: int,
    probes_first: bool,
) -> TaskStream:
    """A task for every transformation, by name, with all labels of the set.

    Args:
        images_per_task: drawn for each task anew, every image equally likely; 0: all.
    """
    everything = len(images.y)
    if not 0 <= images_per_task <= everything:
        raise OperatorError(f"images_per_task is {images_per_task}", allowed=f"0 to {everything}")
    parts = [
        ImageTask(
            name,
            generator.permutation(everything)[: images_per_task or everything],
            np.arange(len(images.held_out_y)),
            of_images=transformation,
        )
        for name, transformation in of_images.items()
    ]
    return stream_of(
        scenario,
        images,
        parts,
        classes=images.classes,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


def check_tasks(tasks: int) -> None:
    """Refuse a number of tasks that no stream can have."""
    if tasks < 1:
        raise OperatorError(f"tasks is {tasks}", allowed="1 or more")
