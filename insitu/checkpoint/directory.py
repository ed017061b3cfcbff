"""Checkpoints on disk: one directory each, complete or not there.

    checkpoint-000000001200/
        tensors.safetensors     the tensors
        manifest.json           everything else, and the hashes

A checkpoint is written under a hidden name beside its place, every file and the directory is
synced, and then renamed: whatever happens in between, a directory with a checkpoint's name is
a whole checkpoint. One service writes to one root.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from safetensors import SafetensorError, safe_open

from insitu.checkpoint.manifest import MANIFEST_NAME, CheckpointDamaged, FileEntry, Manifest
from insitu.checkpoint.snapshot import Snapshot
from insitu.checkpoint.tree import unflatten
from insitu.errors import OperatorError

TENSORS_NAME = "tensors.safetensors"
CHUNK_BYTES = 4 * 1024 * 1024  # hashed and then written while it is still in the cache
_NAME = re.compile(r"checkpoint-(\d{12,})")
_LEFTOVER = re.compile(r"\.(checkpoint-\d{12,})\.(partial|replaced)")


class CheckpointFailed(OperatorError):  # noqa: N818
    """A checkpoint could not be written; the ones before it are untouched."""


class Restored(NamedTuple):
    """The newest good checkpoint: where, what, and which newer ones were damaged."""

    path: Path
    state: Any
    manifest: Manifest
    damaged: list[CheckpointDamaged]


def checkpoint_name(step: int) -> str:
    """The name of a step's directory; names sort as steps do.

    Example:
        >>> checkpoint_name(1200)
        'checkpoint-000000001200'
    """
    return f"checkpoint-{step:012d}"


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoints under `root`, oldest first, good or damaged. None if there is no root."""
    if not root.is_dir():
        return []
    found = (path for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=_step)


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
    partial = root / f".{place.name}.partial"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove(partial)
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
    except (SafetensorError, KeyError, OSError) as error:
        raise CheckpointDamaged(file, f"cannot be read: {error!r}") from error
    return state, manifest


def newest_good(root: Path) -> Restored | None:
    """The newest checkpoint that is whole; None when `root` has no checkpoint at all.

    Raises:
        OperatorError: there are checkpoints, and every one of them is damaged.
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
    raise OperatorError(
        f"all {len(damaged)} checkpoints in {root} are damaged: "
        + "; ".join(error.message for error in damaged),
        consequence="there is nothing to resume from",
        remedy="restore one from a backup, or move them away and start anew",
    )


def prune(root: Path, keep: int, keep_every: int = 0, *, good: Path | None = None) -> list[Path]:
    """Remove old checkpoints, and return the removed.

    Args:
        keep: how many of the newest stay, 1 or more.
        keep_every: checkpoints whose step is a multiple of this stay for ever; 0 for none.
        good: one that is known to be whole, such as the one just written. Otherwise those that
            stay are verified, and where all of them are damaged the newest good one stays too.
    """
    if keep < 1:
        raise OperatorError(f"keep is {keep} checkpoints", allowed="1 or more")
    paths = list_checkpoints(root)
    stay = set(paths[-keep:]) | {p for p in paths if keep_every and _step(p) % keep_every == 0}
    if good not in stay:
        safe = next((path for path in reversed(paths) if _is_good(path)), None)
        if safe is None:
            return []
        stay.add(safe)
    removed = [path for path in paths if path not in stay]
    for path in removed:
        _remove(path)
    return removed


def remove_leftovers(root: Path) -> list[Path]:
    """Clear what a crash left in the middle of writing. Call at the start, before any writer."""
    cleared = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        match = _LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        place = root / match[1]
        if match[2] == "replaced" and not place.exists():
            path.rename(place)  # the crash came between the two renames of a replacement
        else:
            shutil.rmtree(path)
        cleared.append(path)
    return cleared


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def _is_good(path: Path) -> bool:
    try:
        verify_checkpoint(path)
    except OperatorError:
        return False
    return True


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
    replaced = place.parent / f".{place.name}.replaced"
    _remove(replaced)
    place.rename(replaced)
    partial.rename(place)
    _remove(replaced)


def _remove(path: Path) -> None:
    """Remove a directory; a checkpoint loses its name first, so that no half of one remains."""
    if not path.exists():
        return
    if _NAME.fullmatch(path.name):
        hidden = path.parent / f".{path.name}.partial"
        shutil.rmtree(hidden, ignore_errors=True)
        path = path.rename(hidden)
    shutil.rmtree(path)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verified(path: Path) -> tuple[Manifest, Any]:
    manifest, tree = Manifest.decode(_read(path / MANIFEST_NAME), path / MANIFEST_NAME)
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
