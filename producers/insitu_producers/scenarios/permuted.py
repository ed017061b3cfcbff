"""Permuted images: the same labels, with the pixels in another order in every task.

Goodfellow et al., "An empirical investigation of catastrophic forgetting" (2013). One permutation
of all values of an image, channels included, is drawn for each task; the first task keeps the
order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np

from insitu_producers.images.labelled import Images, Indices, LabelledImages
from insitu_producers.scenarios.image_tasks import unchanged
from insitu_producers.scenarios.transformed import check_tasks, transformed
from insitu_producers.sources.task_stream import TaskStream


def permuted(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "permutations, the first being none"] = 5,
    images_per_task: Annotated[int, "drawn for each task; 0: all"] = 0,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
) -> TaskStream:
    """The set under one permutation of its pixels after the other."""
    check_tasks(tasks)
    generator = np.random.default_rng(seed)
    of_images: dict[str, Callable[[Images], Images]] = {"permutation-0": unchanged}
    for task in range(1, tasks):
        of_images[f"permutation-{task}"] = permutation(
            generator.permutation(int(np.prod(images.shape)))
        )
    return transformed(
        "permuted",
        images,
        of_images,
        generator,
        images_per_task=images_per_task,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


def permutation(order: Indices) -> Callable[[Images], Images]:
    """Puts the values of every image into this order.

    Example:
        >>> permutation(np.array([2, 0, 1]))(np.array([[[[10, 20, 30]]]])).tolist()
        [[[[30, 10, 20]]]]
    """
    return lambda images: images.reshape(len(images), -1)[:, order].reshape(images.shape)


SCENARIO = permuted
