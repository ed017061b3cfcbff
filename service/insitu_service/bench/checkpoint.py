"""Checkpoints: how long the learner is held by the snapshot, against one copy of the same bytes."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from insitu.checkpoint import SnapshotBuffers
from insitu_service.bench.comparison import Comparison, compare, in_turn, print_table
from insitu_service.supervision.heap import keep_freed_memory

_STATE_BYTES = 100_000_000
TARGET = 3.0


def _state() -> dict[str, torch.Tensor]:
    """About 100 MB as a model and its optimizer hold it: few large tensors and many small ones."""
    generator = torch.Generator().manual_seed(0)
    sizes = [_STATE_BYTES // 4 // 12] * 12 + [10_000] * 100
    return {f"t{i}": torch.rand(size, generator=generator) for i, size in enumerate(sizes)}


def measure(rounds: int) -> list[Comparison]:
    """Milliseconds of a capture against those of one warm memcpy."""
    torch.set_num_threads(1)
    keep_freed_memory()
    state = _state()
    buffers = SnapshotBuffers()
    buffers.warm(state)
    size_bytes = sum(tensor.nbytes for tensor in state.values())
    source, target = np.ones(size_bytes, np.uint8), np.ones(size_bytes, np.uint8)

    def capture() -> float:
        began = time.perf_counter()
        snapshot = buffers.capture(state)
        elapsed = time.perf_counter() - began
        assert snapshot is not None
        snapshot.release()
        return elapsed * 1e3

    def memcpy() -> float:
        began = time.perf_counter()
        np.copyto(target, source)
        return (time.perf_counter() - began) * 1e3

    capture()
    memcpy()
    ours, floors = in_turn(rounds, capture, memcpy)
    figure = f"capture of {size_bytes / 1e6:.0f} MB in {len(state)} tensors"
    return [compare(figure, "ms", ours, floors, target=TARGET, at_least=False)]


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="insitu bench checkpoint", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    print_table("checkpoint", measure(parser.parse_args(arguments).rounds))
    return 0
