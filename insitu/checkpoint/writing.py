"""Writing a checkpoint: hidden, synced, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from insitu.checkpoint.directory import (
    CHUNK_BYTES,
    MANIFEST_NAME,
    TENSORS_NAME,
    checkpoint_name,
    partial_path,
    replaced_path,
)
from insitu.checkpoint.manifest import FileEntry, Manifest
from insitu.checkpoint.snapshot import Snapshot
from insitu.errors import OperatorError


class CheckpointFailed(OperatorError):  # noqa: N818
    """A checkpoint could not be written; the ones before it are untouched."""


def write_checkpoint(
    root: Path,
    snapshot: Snapshot,
    step: int,
    parent: str | None = None,
    info: Mapping[str, Any] | None = None,
    *,
    config_fingerprint: str = "",
) -> Path:
    """Write a snapshot, and return its directory when it is safely on the disk.

    Makes `root` where it is missing. A checkpoint of the same step is replaced: after a roll
    back the same step comes again. Does not release the snapshot.

    Raises:
        CheckpointFailed: the disk is full, read-only, gone, ...; nothing is left behind.
    """
    place = root / checkpoint_name(step)
    partial = partial_path(place)
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        files = {TENSORS_NAME: _write(partial / TENSORS_NAME, _tensors(snapshot))}
        manifest = Manifest.now(
            step=step, parent=parent, files=files, config_fingerprint=config_fingerprint,
            info=info or {},
        )  # fmt: skip
        _write(partial / MANIFEST_NAME, [memoryview(manifest.encode(snapshot.tree))])
        _sync_directory(partial)
        _put_in_place(partial, place)
        _sync_directory(root)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointFailed(
                f"checkpoint {place} cannot be written: {error}",
                consequence="the state of this step is not kept; earlier checkpoints are",
                remedy="make room, or see to the disk",
            ) from error
        raise
    return place


def _tensors(snapshot: Snapshot) -> list[memoryview]:
    return [memoryview(snapshot.layout.header), snapshot.data()]


def _write(path: Path, parts: Iterable[memoryview]) -> FileEntry:
    """Write and sync a file. Hash and write release the interpreter's lock."""
    digest, size_bytes = xxhash.xxh3_128(), 0
    with path.open("xb", buffering=0) as file:
        for part in parts:
            for chunk in _chunks(part):
                digest.update(chunk)
                size_bytes += len(chunk)
                while chunk:  # a full disk or a signal makes short writes
                    chunk = chunk[file.write(chunk) :]
        os.fsync(file.fileno())
    return FileEntry(size_bytes, digest.hexdigest())


def _chunks(part: memoryview) -> Iterator[memoryview]:
    for begin in range(0, len(part), CHUNK_BYTES):
        yield part[begin : begin + CHUNK_BYTES]


def _put_in_place(partial: Path, place: Path) -> None:
    if not place.exists():
        partial.rename(place)
        return
    replaced = replaced_path(place)
    shutil.rmtree(replaced, ignore_errors=True)
    place.rename(replaced)
    try:
        partial.rename(place)
    except OSError:
        replaced.rename(place)
        raise
    shutil.rmtree(replaced)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
