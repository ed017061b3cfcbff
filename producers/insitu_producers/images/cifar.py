"""CIFAR-10 and CIFAR-100 in their binary version, as a directory or straight from the archive.

A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009). A record is its
label, one byte (CIFAR-100: the coarse one before the fine one), and 3,072 bytes, red, green and
blue one after the other. The version for Python is a pickle, which can run any program when it is
read, so it is not read here.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.images.archive import files_in
from insitu_producers.images.labelled import LabelledImages

_PIXELS = 3 * 32 * 32
_NAME_FILES = ("batches.meta.txt", "fine_label_names.txt")


def load(path: Path | None = None, cache: Path | None = None) -> LabelledImages:
    """The set in `path`: cifar-10-batches-bin, cifar-100-binary, or the .tar.gz of either.

    Raises:
        OperatorError: there is no binary version in it, or a file is damaged.
    """
    if path is None:
        raise OperatorError(
            "the image set cifar has no path",
            allowed="cifar-10-batches-bin or cifar-100-binary, or their .tar.gz",
            remedy="give it with --data",
        )
    parts: dict[str, bytes] = {}
    names: tuple[str, ...] = ()
    for inside, content in files_in(path):
        base = PurePosixPath(inside).name
        if base.endswith(".bin"):
            parts[base] = content
        elif base in _NAME_FILES:
            names = tuple(content.decode().split())
    training = sorted(name for name in parts if name.startswith(("data_batch", "train")))
    if not training or not any(name.startswith("test") for name in parts):
        raise OperatorError(
            f"{path} holds {', '.join(sorted(parts)) or 'no .bin file'}",
            allowed="data_batch_1.bin to data_batch_5.bin and test_batch.bin, or train.bin and "
            "test.bin",
            consequence="there are no images",
            remedy="take the binary version, not the one for Python, which is a pickle",
        )
    label_bytes = 2 if "train.bin" in parts else 1
    records = [_records(name, parts[name], label_bytes) for name in training]
    held_out = [_records(name, parts[name], label_bytes) for name in parts if "test" in name]
    x, y = _images(np.concatenate(records), label_bytes)
    held_out_x, held_out_y = _images(np.concatenate(held_out), label_bytes)
    classes = 100 if label_bytes == 2 else 10
    names = names if len(names) == classes else tuple(str(label) for label in range(classes))
    return LabelledImages("cifar", x, y, held_out_x, held_out_y, names)


def _records(name: str, content: bytes, label_bytes: int) -> np.ndarray:
    size = label_bytes + _PIXELS
    if not content or len(content) % size:
        raise OperatorError(
            f"{name} has {len(content)} bytes",
            allowed=f"a whole number of records of {size} bytes",
            consequence="there are no images",
        )
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def _images(records: np.ndarray, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return images, records[:, label_bytes - 1].astype(np.int64)


IMAGE_SET = load
