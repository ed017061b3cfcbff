"""Reading a checkpoint: every byte is verified before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from safetensors import SafetensorError, safe_open

from insitu.checkpoint.directory import (
    CHUNK_BYTES,
    MANIFEST_NAME,
    TENSORS_NAME,
    list_checkpoints,
)
from insitu.checkpoint.manifest import CheckpointDamaged, FileEntry, Manifest
from insitu.checkpoint.tree import NOT_OURS, unflatten
from insitu.errors import OperatorError


class NoGoodCheckpoint(OperatorError):  # noqa: N818
    """There are checkpoints, and every one of them is damaged."""


class Restored(NamedTuple):
    """The newest good checkpoint: where, what, and which newer ones were damaged."""

    path: Path
    state: Any
    manifest: Manifest
    damaged: list[CheckpointDamaged]


def verify_checkpoint(path: Path) -> Manifest:
    """Read every byte of a checkpoint and load nothing.

    Raises:
        CheckpointDamaged: a file is missing, cut short or altered.
    """
    return _verified(path)[0]


def read_checkpoint(path: Path) -> tuple[Any, Manifest]:
    """The state, with its tensors on the CPU, and the manifest.

    Sizes and hashes are checked before anything is loaded, and nothing is ever unpickled.

    Raises:
        CheckpointDamaged: a file is missing, cut short or altered.
        OperatorError: a newer insitu wrote it.
    """
    manifest, tree = _verified(path)
    file = path / TENSORS_NAME
    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            names = list(tensors.keys())
            # cloned, so that no tensor keeps the whole file mapped
            state = unflatten(tree, {name: tensors.get_tensor(name).clone() for name in names})
    except (SafetensorError, OSError, *NOT_OURS) as error:
        raise CheckpointDamaged(file, f"cannot be read: {error!r}") from error
    return state, manifest


def newest_good(root: Path) -> Restored | None:
    """The newest checkpoint that is whole; None when `root` has no checkpoint at all.

    Raises:
        NoGoodCheckpoint: there are checkpoints, and every one of them is damaged.
        OperatorError: a newer insitu wrote the newest good one.
    """
    damaged: list[CheckpointDamaged] = []
    for path in reversed(list_checkpoints(root)):
        try:
            state, manifest = read_checkpoint(path)
        except CheckpointDamaged as error:
            damaged.append(error)
        else:
            return Restored(path, state, manifest, damaged)
    if not damaged:
        return None
    raise NoGoodCheckpoint(
        f"all {len(damaged)} checkpoints in {root} are damaged: "
        + "; ".join(error.message for error in damaged),
        consequence="there is nothing to resume from",
        remedy="restore one from a backup, or move them away and start anew",
    )


def read_manifest(path: Path) -> Manifest:
    """What a checkpoint says of itself; its other files are not looked at.

    Raises:
        CheckpointDamaged: the manifest is missing, cut short or altered.
        OperatorError: a newer insitu wrote it.
    """
    return _manifest_and_tree(path)[0]


def _manifest_and_tree(path: Path) -> tuple[Manifest, Any]:
    return Manifest.decode(_read(path / MANIFEST_NAME), path / MANIFEST_NAME)


def _verified(path: Path) -> tuple[Manifest, Any]:
    manifest, tree = _manifest_and_tree(path)
    for name, entry in manifest.files.items():
        _check_file(path / name, entry)
    return manifest, tree


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointDamaged(path, f"cannot be read: {error.strerror}") from error


def _check_file(path: Path, entry: FileEntry) -> None:
    digest, size_bytes, chunk = xxhash.xxh3_128(), 0, bytearray(CHUNK_BYTES)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(chunk):
                digest.update(memoryview(chunk)[:count])
                size_bytes += count
    except OSError as error:
        raise CheckpointDamaged(path, f"cannot be read: {error.strerror}") from error
    if size_bytes != entry.size_bytes:
        raise CheckpointDamaged(path, f"has {size_bytes} bytes, {entry.size_bytes} were written")
    if digest.hexdigest() != entry.xxh3_128:
        raise CheckpointDamaged(path, "does not hold the bytes that were written (xxh3-128)")
