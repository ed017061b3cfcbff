"""What is fuzzed: one module a way in for bytes of strangers.

Each has `run(data)`, which hands the bytes to the real thing and raises only when that did
something that it must not: any error but the one that it promises, or a wrong answer.
`corpus/NAME/` holds bytes to begin with, those that once found a fault among them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
NAMES = ("wire", "checkpoint", "config", "http", "log")


def load(name: str) -> Callable[[bytes], None]:
    """The `run` of a target."""
    run: Callable[[bytes], None] = importlib.import_module(f"chaos.targets.{name}").run
    return run


def corpus(name: str) -> list[bytes]:
    """The bytes to begin with, in the order of their files' names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
