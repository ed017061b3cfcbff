"""Random generators: one for each part that draws, all from the one seed of the configuration."""

from __future__ import annotations

import hashlib

import torch


def part_seed(seed: int, part: str) -> int:
    """A seed for one part; parts of different names get unrelated ones, the same on any machine.

    Example:
        >>> part_seed(0, "buffer") == part_seed(0, "buffer") != part_seed(0, "memory")
        True
    """
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def part_generator(seed: int, part: str) -> torch.Generator:
    """A generator on the CPU for one part."""
    return torch.Generator().manual_seed(part_seed(seed, part))
