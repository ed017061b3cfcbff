"""IDX files, the format of MNIST and its relatives, plain or gzipped.

A big-endian header `0 0 TYPE DIMENSIONS`, one 32-bit extent a dimension, then the numbers
(Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998). The four files
of such a set are found by their published names, or by the EMNIST way of writing them.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from insitu.errors import OperatorError
from insitu_producers.images.labelled import Images, LabelledImages, Labels

_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_PARTS = (("train", "train"), ("test", "t10k"))


def read_idx(path: Path) -> NDArray[np.generic]:
    """The array in one IDX file, in the machine's byte order.

    Raises:
        OperatorError: it is no IDX file, or a damaged one.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise _refusal(path, str(error)) from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES:
        raise _refusal(path, f"it begins with {data[:4]!r}")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise _refusal(path, f"it ends after {len(data)} bytes, within its header")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    dtype = np.dtype(_DTYPES[data[2]])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise _refusal(path, f"it has {len(data)} bytes, and its header tells {expected}")
    values = np.frombuffer(data, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _refusal(path: Path, what: str) -> OperatorError:
    return OperatorError(
        f"{path} is no IDX file: {what}",
        allowed="two zero bytes, a type, a number of dimensions, their extents, the numbers",
        consequence="there are no images",
    )


def load(path: Path | None = None, cache: Path | None = None) -> LabelledImages:
    """The set whose four files lie in the directory `path`; images are (1, height, width) uint8.

    Raises:
        OperatorError: a file is missing or is no IDX file.
    """
    if path is None:
        raise OperatorError(
            "the image set idx has no path",
            allowed="the directory that holds train-images-idx3-ubyte and its companions",
            remedy="give it with --data",
        )
    (x, y), (held_out_x, held_out_y) = (_part(path, part) for part in _PARTS)
    names = tuple(str(label) for label in range(int(max(y.max(), held_out_y.max())) + 1))
    return LabelledImages("idx", x, y, held_out_x, held_out_y, names)


def _part(directory: Path, parts: tuple[str, ...]) -> tuple[Images, Labels]:
    images = read_idx(_find(directory, parts, "images-idx3-ubyte"))
    labels = read_idx(_find(directory, parts, "labels-idx1-ubyte"))
    return images[:, None] if images.ndim == 3 else images, labels.astype(np.int64)


def _find(directory: Path, parts: tuple[str, ...], kind: str) -> Path:
    for part in parts:
        for pattern in (f"{part}-{kind}*", f"*-{part}-{kind}*"):
            found = sorted(directory.glob(pattern))
            if found:
                return found[0]
    raise OperatorError(
        f"{directory} holds no {parts[-1]}-{kind}",
        allowed="the four files of the set, plain or with .gz",
        consequence="there are no images",
    )


IMAGE_SET = load
