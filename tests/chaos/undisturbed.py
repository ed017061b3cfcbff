"""The run that nobody disturbed: another service gets the same rows in the same order.

It is a service with the same configuration and no log, and one producer that pushes the rows in
the order in which they went into the weights. With a fixed pace the weights follow from that
order and the seed alone, so they must come out bit by bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from chaos.rows import SCHEMA, STREAM, rows_at
from chaos.services import service
from daemon import Daemon
from insitu.checkpoint import list_checkpoints, read_checkpoint
from insitu.wire.rows import Array
from insitu_producers import Producer

_ROWS = 64
#: what a checkpoint holds of learning; the rest tells of producers and of the plug-in
_LEARNED = ("trainer",)


def differences_to_undisturbed(directory: Path, disturbed: Daemon, order: Array) -> list[str]:
    """Paths in the state of learning that are not the same, bit by bit.

    Args:
        disturbed: stopped, with a last checkpoint.
        order: the sample ids of all steps, one after another.
    """
    with service(directory) as daemon:
        daemon.start()
        with Producer(
            daemon.endpoint, stream=STREAM, producer_id="all", schema=SCHEMA, linger_seconds=120
        ) as producer:
            for start in range(0, len(order), _ROWS):
                ids = order[start : start + _ROWS]
                producer.push(rows_at(ids), sample_ids=ids)
            producer.flush(120)
        daemon.wait_metric("insitu_trained_samples_total", len(order), source="fresh")
        assert daemon.stop() == 0
    places = (Path(each.config["checkpoint"]["directory"]) for each in (disturbed, daemon))
    return learned_differences(*places)


def learned_differences(one: Path, two: Path) -> list[str]:
    """Paths at which the newest checkpoints in two directories do not say the same of learning."""
    ours, theirs = _learned(one), _learned(two)
    assert any("weight" in path for path in ours), sorted(ours)
    return sorted(
        path for path in ours.keys() | theirs.keys() if not _same(ours.get(path), theirs.get(path))
    )


def _learned(checkpoints: Path) -> dict[str, Any]:
    """Path -> leaf of what the newest checkpoint says of learning."""
    state, _ = read_checkpoint(list_checkpoints(checkpoints)[-1])
    leaves: dict[str, Any] = {}
    for part in _LEARNED:
        _flatten(state[part], part, leaves)
    return {path: leaf for path, leaf in leaves.items() if "/strategies/" not in path}


def _flatten(tree: Any, path: str, leaves: dict[str, Any]) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            _flatten(value, f"{path}/{key}", leaves)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _flatten(value, f"{path}/{index}", leaves)
    else:
        leaves[path] = tree


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape
        return same and one.numpy().tobytes() == two.numpy().tobytes()
    return bool(one == two)
