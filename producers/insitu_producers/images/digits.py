"""The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (1998). Nothing is held out in it.
"""

from __future__ import annotations

from pathlib import Path

from insitu_producers.images.labelled import LabelledImages


def load(path: Path | None = None, cache: Path | None = None) -> LabelledImages:
    """The digits as (1, 8, 8) float32 in [0, 1]; `path` is not needed."""
    from insitu_producers.sources.digits import load_digits

    digits = load_digits()
    x = digits["x"].reshape(-1, 1, 8, 8)
    names = tuple(str(label) for label in range(10))
    return LabelledImages.in_one_part("digits", x, digits["y"].astype("int64"), names)


IMAGE_SET = load
