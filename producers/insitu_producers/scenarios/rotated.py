"""Rotated images: the same labels, the images turned by another angle in every task.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (2017), with angles at even
distances here and random ones there. Values between pixels are interpolated linearly, and what
comes in from outside is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np

from insitu_producers.images.labelled import Images, LabelledImages
from insitu_producers.scenarios.transformed import check_tasks, transformed
from insitu_producers.sources.task_stream import TaskStream


def rotated(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "angles, the first being 0"] = 5,
    degrees_per_task: Annotated[float, "further turn of every task"] = 30.0,
    images_per_task: Annotated[int, "drawn for each task; 0: all"] = 0,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
) -> TaskStream:
    """The set at one angle after the other."""
    check_tasks(tasks)
    height, width = images.shape[1:]
    angles = [degrees_per_task * task for task in range(tasks)]
    return transformed(
        "rotated",
        images,
        {f"{angle:g} degrees": rotation(height, width, angle) for angle in angles},
        np.random.default_rng(seed),
        images_per_task=images_per_task,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


def rotation(height: int, width: int, degrees: float) -> Callable[[Images], Images]:
    """Turns images counterclockwise around their centre.

    Example:
        >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
        >>> rotation(2, 2, 90.0)(image).round(6)[0, 0].tolist()
        [[1.0, 3.0], [0.0, 2.0]]
    """
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    down, right = rows - (height - 1) / 2, columns - (width - 1) / 2
    angle = np.deg2rad(degrees)
    from_row = np.cos(angle) * down + np.sin(angle) * right + (height - 1) / 2
    from_column = np.cos(angle) * right - np.sin(angle) * down + (width - 1) / 2
    # rounded, so that a pixel that stays at the edge does not fall out by the last digit
    from_row, from_column = from_row.round(9), from_column.round(9)
    corners = []
    for row_step in (0, 1):
        for column_step in (0, 1):
            row, column = np.floor(from_row) + row_step, np.floor(from_column) + column_step
            weight = (1 - np.abs(from_row - row)) * (1 - np.abs(from_column - column))
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = np.where(inside, row * width + column, 0).astype(np.int64).reshape(-1)
            corners.append((place, np.where(inside, weight, 0.0).reshape(-1)))

    def turn(images: Images) -> Images:
        flat = images.reshape(*images.shape[:2], -1)
        turned = sum(flat[..., place] * weight for place, weight in corners)
        if np.issubdtype(images.dtype, np.integer):
            turned = np.rint(turned)
        return np.asarray(turned).astype(images.dtype).reshape(images.shape)

    return turn


SCENARIO = rotated
