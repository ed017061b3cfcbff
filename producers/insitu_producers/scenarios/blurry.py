"""Blurry boundaries: classes are at home in one task, and some of their images stray to others.

i-Blurry, Koh et al., "Online continual learning on class incremental blurry task configuration with
anytime inference" (2022): a share of the classes is disjoint and appears in one task only; of every
other class a share of the images is spread over the other tasks, evenly. With no disjoint classes
it is Blurry-M of Bang et al., "Rainbow Memory" (2021).

All images of a stretch of the stream carry the name of that stretch, wherever their class is at
home; held-out images are measured with the home of their class. Deviation: the stretches that the
stray images go to are drawn, so a few more may come to one than to another.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.images.labelled import Indices, LabelledImages, Labels
from insitu_producers.scenarios.image_tasks import (
    ImageTask,
    groups_of_classes,
    of_classes,
    stream_of,
)
from insitu_producers.sources.task_stream import TaskStream


def blurry(
    images: LabelledImages,
    *,
    seed: int,
    tasks: Annotated[int, "tasks that the classes are divided into, evenly"] = 5,
    disjoint_ratio: Annotated[float, "share of the classes that appear in one task only"] = 0.0,
    stray_ratio: Annotated[float, "share of the other classes' images that stray"] = 0.1,
    shuffle_classes: Annotated[bool, "whether the seed chooses which classes go together"] = True,
    rows_per_push: Annotated[int, "images a push"] = 10,
    probes_first: Annotated[bool, "all held-out images before the first task"] = True,
) -> TaskStream:
    """Groups of classes, one after the other, with images of other groups among them."""
    for name, ratio in (("disjoint_ratio", disjoint_ratio), ("stray_ratio", stray_ratio)):
        if not 0.0 <= ratio <= 1.0:
            raise OperatorError(f"{name} is {ratio}", allowed="0 to 1")
    generator = np.random.default_rng(seed)
    groups = groups_of_classes(images, tasks, shuffle_classes, generator)
    disjoint = generator.permutation(images.classes)[: round(disjoint_ratio * images.classes)]
    home = np.zeros(images.classes, np.int64)
    for task, classes in enumerate(groups):
        home[classes] = task
    place = _places(images.y, home, disjoint, stray_ratio, tasks, generator)
    parts = [
        ImageTask(
            f"stretch-{task}",
            generator.permutation(np.flatnonzero(place == task)),
            of_classes(images.held_out_y, classes),
        )
        for task, classes in enumerate(groups)
    ]
    return stream_of(
        "blurry",
        images,
        parts,
        classes=images.classes,
        rows_per_push=rows_per_push,
        probes_first=probes_first,
    )


def _places(
    labels: Labels,
    home: Indices,
    disjoint: Indices,
    stray_ratio: float,
    tasks: int,
    generator: np.random.Generator,
) -> Indices:
    """(images,) the task that every image appears in."""
    place = home[labels]
    if tasks == 1:
        return place
    for label in np.setdiff1d(np.arange(len(home)), disjoint):
        members = generator.permutation(np.flatnonzero(labels == label))
        strays = members[: round(stray_ratio * len(members))]
        place[strays] = (home[label] + generator.integers(1, tasks, len(strays))) % tasks
    return place


SCENARIO = blurry
