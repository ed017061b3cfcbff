"""Folders of JPEG or PNG files, one folder a class; on disk or straight from a tar archive.

`train/<class>/*` and `test/<class>/*`, or `<class>/*` where nothing is held out. Needs Pillow.
Decoding takes a while, so with a cache directory it is done once: the arrays are kept there as
.npy files, under a name made from path, size and time of the source.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path, PurePosixPath

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.images.archive import files_in
from insitu_producers.images.labelled import LabelledImages

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_HELD_OUT = {"test", "val", "valid"}
_ARRAYS = ("x", "y", "held_out_x", "held_out_y", "class_names")


def load(path: Path | None = None, cache: Path | None = None) -> LabelledImages:
    """The images as (3, height, width) uint8, classes in the order of their names.

    Args:
        path: a directory or a tar archive.
        cache: directory for the decoded arrays; None: decoded each time.

    Raises:
        OperatorError: there are no images in it, they differ in size, or one is damaged.
        ImportError: Pillow is absent.
    """
    if path is None:
        raise OperatorError(
            "the image set folder has no path",
            allowed="a directory or tar archive with train/<class>/*.jpg and test/<class>/*.jpg",
            remedy="give it with --data",
        )
    kept = None if cache is None else cache / _cache_name(path)
    if kept is not None and all((kept / f"{name}.npy").is_file() for name in _ARRAYS):
        return _from_cache(kept)
    images = _decoded(path)
    if kept is not None:
        _to_cache(images, kept)
    return images


def _decoded(path: Path) -> LabelledImages:
    from PIL import Image, UnidentifiedImageError

    found: dict[str, list[tuple[str, str, np.ndarray]]] = {"train": [], "test": []}
    for inside, content in files_in(path):
        place = PurePosixPath(inside)
        if place.suffix.lower() not in _SUFFIXES or len(place.parts) < 2:
            continue
        try:
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise OperatorError(
                f"{inside} in {path} cannot be decoded: {error}",
                consequence="there are no images",
            ) from error
        part = "test" if _HELD_OUT & set(place.parts[:-2]) else "train"
        found[part].append((place.parts[-2], inside, pixels.transpose(2, 0, 1)))
    if not found["train"]:
        raise OperatorError(
            f"{path} holds no images",
            allowed="train/<class>/*.jpg or .png, and test/<class>/* for those held out",
        )
    names = tuple(sorted({name for part in found.values() for name, _, _ in part}))
    arrays = [array for part in found.values() for array in _arrays(path, part, names)]
    if not found["test"]:
        return LabelledImages.in_one_part("folder", arrays[0], arrays[1], names)
    return LabelledImages("folder", arrays[0], arrays[1], arrays[2], arrays[3], names)


def _arrays(
    path: Path, part: list[tuple[str, str, np.ndarray]], names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """In the order of the paths, whatever order the archive has."""
    part = sorted(part, key=lambda entry: entry[1])
    sizes = {pixels.shape for _, _, pixels in part}
    if len(sizes) > 1:
        raise OperatorError(
            f"the images in {path} have shapes {', '.join(map(str, sorted(sizes)))}",
            allowed="one size for all",
            remedy="scale them to one size first",
        )
    number = {name: label for label, name in enumerate(names)}
    if not part:
        return np.zeros((0, 3, 1, 1), np.uint8), np.zeros(0, np.int64)
    labels = np.array([number[name] for name, _, _ in part], np.int64)
    return np.stack([pixels for _, _, pixels in part]), labels


def _cache_name(path: Path) -> str:
    state = path.stat() if path.exists() else None
    told = f"{path.resolve()} {state and (state.st_size, state.st_mtime_ns)}"
    return f"{path.name.split('.')[0]}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _to_cache(images: LabelledImages, directory: Path) -> None:
    """Each array under its name at the end only, so that a half written one is never read."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in _ARRAYS:
        unfinished = directory / f".{name}-{os.getpid()}.npy"
        np.save(unfinished, np.asarray(getattr(images, name)))
        unfinished.replace(directory / f"{name}.npy")


def _from_cache(directory: Path) -> LabelledImages:
    arrays = {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
    names = tuple(str(name) for name in arrays.pop("class_names"))
    return LabelledImages("folder", class_names=names, **arrays)


IMAGE_SET = load
