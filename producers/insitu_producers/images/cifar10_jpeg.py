"""CIFAR-10 as an archive of JPEG files, `train/<class>/NNNN.jpg` and `test/<class>/NNNN.jpg`.

The environment variable INSITU_CIFAR10 says where the archive lies, if `--data` does not. Slightly
lossy against the original arrays.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from insitu_producers.images import folder
from insitu_producers.images.labelled import LabelledImages

VARIABLE = "INSITU_CIFAR10"


def default_path() -> Path:
    """Where the archive is looked for when nobody says."""
    return Path(os.environ.get(VARIABLE, "../shared/data/cifar10-jpeg.tar.xz"))


def load(path: Path | None = None, cache: Path | None = None) -> LabelledImages:
    """50,000 images to train and 10,000 held out, (3, 32, 32) uint8; see `folder.load`."""
    return replace(folder.load(path or default_path(), cache), name="cifar10")


IMAGE_SET = load
