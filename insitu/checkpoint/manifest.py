"""manifest.json: what a checkpoint is, what its files must hold, and the state without tensors.

The manifest carries the size and the xxh3-128 of every other file, and of itself: the hash of
its own compact JSON without that last entry. So damage of any byte that matters is found before
anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import xxhash

from insitu.checkpoint.tree import NOT_OURS, flatten, unflatten
from insitu.errors import OperatorError

FORMAT = "insitu-checkpoint"
FORMAT_VERSION = 1
_SELF = "manifest_xxh3_128"


class CheckpointDamaged(OperatorError):  # noqa: N818
    """A file of a checkpoint is missing or does not hold what was written.

    Args:
        path: the damaged file.
        what: what is wrong with it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        super().__init__(
            f"checkpoint file {path} {what}",
            consequence="nothing of this checkpoint is loaded",
            remedy="use the checkpoint before it, or restore the file",
        )


@dataclass(frozen=True)
class FileEntry:
    """What a file must be: its size and the xxh3-128 of its bytes, in hexadecimal."""

    size_bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's description.

    Args:
        step: the last step whose effect is in the state.
        parent: name of the checkpoint before it in the same run, which retention may have
            removed since; None for the first.
        files: name -> what the file must be.
        config_fingerprint: of the configuration that the state belongs to; may be empty.
        info: anything else worth knowing, chosen by who saved it.
        created_at: UTC, ISO 8601.
        insitu_version, torch_version: of the writer.
    """

    step: int
    parent: str | None
    files: Mapping[str, FileEntry]
    config_fingerprint: str
    info: Mapping[str, Any]
    created_at: str
    insitu_version: str
    torch_version: str

    @classmethod
    def now(
        cls,
        *,
        step: int,
        parent: str | None,
        files: Mapping[str, FileEntry],
        config_fingerprint: str,
        info: Mapping[str, Any],
    ) -> Manifest:
        """A manifest of this moment and these versions."""
        created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(
            step, parent, files, config_fingerprint, info,
            created_at, _insitu_version(), str(torch.__version__),
        )  # fmt: skip

    def encode(self, tree: Any) -> bytes:
        """The bytes of manifest.json, for a state with this tree."""
        info, tensors = flatten(dict(self.info))
        if tensors:
            raise OperatorError(
                f"the info of a checkpoint holds tensors: {', '.join(tensors)}",
                allowed="numbers, strings, booleans, None, and lists and dicts of these",
            )
        content = {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self)
        content |= {"info": info, "state": tree}
        text = json.dumps(content | {_SELF: _hash(content)}, indent=1, allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, path: Path) -> tuple[Manifest, Any]:
        """The manifest and the tree from the bytes of the file at `path`.

        Raises:
            CheckpointDamaged: these are not the bytes that were written, or no insitu wrote them.
            OperatorError: they are, but from a newer insitu.
        """
        content = _checked(data, path)
        version = content.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise OperatorError(
                f"checkpoint {path.parent} has format version {version!r}",
                allowed=str(FORMAT_VERSION),
                consequence="it is not loaded",
                remedy="load it with the insitu that wrote it: "
                f"{content.get('insitu_version', 'unknown')}",
            )
        del content["format"]
        try:
            tree = content.pop("state")
            content["info"] = unflatten(content["info"], {})
            content["files"] = _entries(content["files"])
            return cls(**content), tree
        except NOT_OURS as error:
            raise CheckpointDamaged(path, f"does not say what it must: {error!r}") from error


def _entries(files: Mapping[str, Mapping[str, Any]]) -> dict[str, FileEntry]:
    """What the files beside the manifest must be; a path to anywhere else is refused."""
    for name in files:
        if Path(name).name != name:
            raise ValueError(f"file {name!r} is not a plain name")
    return {name: FileEntry(**entry) for name, entry in files.items()}


def _checked(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointDamaged(path, f"is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointDamaged(path, f"does not say that it is an {FORMAT}")
    if content.pop(_SELF, None) != _hash(content):
        raise CheckpointDamaged(path, f"does not match its own {_SELF}")
    return content


def _hash(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _insitu_version() -> str:
    try:
        return metadata.version("insitu")
    except metadata.PackageNotFoundError:
        return "unknown"
