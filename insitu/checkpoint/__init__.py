"""Checkpoints: snapshot a state in one copy, write it atomically, read it back without pickle."""

from __future__ import annotations

from insitu.checkpoint.directory import checkpoint_name, list_checkpoints, remove_leftovers
from insitu.checkpoint.manifest import CheckpointDamaged, Manifest
from insitu.checkpoint.reading import (
    NoGoodCheckpoint,
    Restored,
    newest_good,
    read_checkpoint,
    read_manifest,
    verify_checkpoint,
)
from insitu.checkpoint.retention import prune
from insitu.checkpoint.snapshot import Snapshot, SnapshotBuffers
from insitu.checkpoint.writing import CheckpointFailed, write_checkpoint

__all__ = [
    "CheckpointDamaged",
    "CheckpointFailed",
    "Manifest",
    "NoGoodCheckpoint",
    "Restored",
    "Snapshot",
    "SnapshotBuffers",
    "checkpoint_name",
    "list_checkpoints",
    "newest_good",
    "prune",
    "read_checkpoint",
    "read_manifest",
    "remove_leftovers",
    "verify_checkpoint",
    "write_checkpoint",
]
