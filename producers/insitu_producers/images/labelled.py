"""A set of labelled images, and how a part of it is held out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from insitu.errors import OperatorError

Images = NDArray[np.generic]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """Images to train and images held out, with labels.

    Args:
        name: of the set.
        x: (images, channels, height, width), to train; uint8, or float32 in [0, 1].
        y: (images,) int64 labels from 0.
        held_out_x, held_out_y: the same of the images that are never trained; none of them where
            the set comes in one part, see `with_held_out`.
        class_names: name of every label.

    Raises:
        OperatorError: images and labels do not fit each other.

    Example:
        >>> x, y = np.zeros((10, 1, 8, 8), np.uint8), np.arange(10) % 2
        >>> images = LabelledImages.in_one_part("toy", x, y, ("even", "odd"))
        >>> images = images.with_held_out(0.2, np.random.default_rng(0))
        >>> len(images.y), len(images.held_out_y), images.classes, images.shape
        (8, 2, 2, (1, 8, 8))
    """

    name: str
    x: Images
    y: Labels
    held_out_x: Images
    held_out_y: Labels
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for part, x, y in (("to train", self.x, self.y), ("held out", *self._held_out())):
            if x.ndim != 4 or y.shape != x.shape[:1]:
                raise OperatorError(
                    f"{self.name}: the images {part} have shape {x.shape} and labels {y.shape}",
                    allowed="(images, channels, height, width) and (images,)",
                )
            if len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
                raise OperatorError(
                    f"{self.name}: labels {part} go from {y.min()} to {y.max()}",
                    allowed=f"0 to {self.classes - 1}",
                )
        if len(self.held_out_y) and self.x.shape[1:] != self.held_out_x.shape[1:]:
            raise OperatorError(
                f"{self.name}: images to train are {self.shape}, held-out ones "
                f"{self.held_out_x.shape[1:]}",
                allowed="one shape for all",
            )

    @classmethod
    def in_one_part(
        cls, name: str, x: Images, y: Labels, class_names: tuple[str, ...]
    ) -> LabelledImages:
        """A set that was published whole, with nothing held out yet."""
        return cls(name, x, y, x[:0], y[:0], class_names)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image: (channels, height, width)."""
        return self.x.shape[1:]

    def with_held_out(self, ratio: float, generator: np.random.Generator) -> LabelledImages:
        """Hold out a share of every class, where the set itself holds nothing out."""
        if len(self.held_out_y):
            return self
        chosen = []
        for label in range(self.classes):
            members = generator.permutation(np.flatnonzero(self.y == label))
            chosen.append(members[: round(ratio * len(members))])
        held_out = np.zeros(len(self.y), bool)
        held_out[np.concatenate(chosen)] = True
        return replace(
            self,
            x=self.x[~held_out],
            y=self.y[~held_out],
            held_out_x=self.x[held_out],
            held_out_y=self.y[held_out],
        )

    def at_most(
        self, per_class: int, held_out_per_class: int, generator: np.random.Generator
    ) -> LabelledImages:
        """A random part of the set with at most so many images of every class; 0: all."""
        kept = _at_most(self.y, self.classes, per_class, generator)
        held_out = _at_most(self.held_out_y, self.classes, held_out_per_class, generator)
        return replace(
            self,
            x=self.x[kept],
            y=self.y[kept],
            held_out_x=self.held_out_x[held_out],
            held_out_y=self.held_out_y[held_out],
        )

    def _held_out(self) -> tuple[Images, Labels]:
        return self.held_out_x, self.held_out_y


def _at_most(
    labels: Labels, classes: int, count: int, generator: np.random.Generator
) -> Indices | slice:
    if count == 0:
        return slice(None)
    kept = [
        generator.permutation(np.flatnonzero(labels == label))[:count] for label in range(classes)
    ]
    return np.sort(np.concatenate(kept))
