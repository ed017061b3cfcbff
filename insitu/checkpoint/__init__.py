"""Checkpoints: snapshot a state in one copy, write it atomically, read it back without pickle."""

from __future__ import annotations

from insitu.checkpoint.directory import (
    CheckpointFailed,
    Restored,
    checkpoint_name,
    list_checkpoints,
    newest_good,
    prune,
    read_checkpoint,
    remove_leftovers,
    verify_checkpoint,
    write_checkpoint,
)
from insitu.checkpoint.manifest import CheckpointDamaged, Manifest
from insitu.checkpoint.snapshot import Snapshot, SnapshotBuffers

__all__ = [
    "CheckpointDamaged",
    "CheckpointFailed",
    "Manifest",
    "Restored",
    "Snapshot",
    "SnapshotBuffers",
    "checkpoint_name",
    "list_checkpoints",
    "newest_good",
    "prune",
    "read_checkpoint",
    "remove_leftovers",
    "verify_checkpoint",
    "write_checkpoint",
]
