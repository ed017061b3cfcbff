"""Checksums of fragments: xxh3 (64 bit) where xxhash is installed, else CRC-32.

xxh3 runs at the speed of memory, CRC-32 at about 1-4 GB/s but needs only the standard library.
HELLO offers what the producer has among its capabilities as `checksum:NAME`; WELCOME picks one.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterable

from insitu.errors import ProducerError
from insitu.wire.values import Payload

_PREFIX = "checksum:"
_KINDS: dict[str, Callable[[Payload], int]] = {}
with contextlib.suppress(ImportError):  # the base client installs without it
    from xxhash import xxh3_64_intdigest

    _KINDS["xxh3"] = xxh3_64_intdigest
_KINDS["crc32"] = zlib.crc32


def available() -> tuple[str, ...]:
    """The kinds that this process can compute, the fastest first."""
    return tuple(_KINDS)


def checksum(kind: str, data: Payload) -> int:
    """The checksum of some contiguous bytes, as an unsigned whole number.

    Example:
        >>> checksum("crc32", b"123456789") == 0xCBF43926
        True
    """
    function = _KINDS.get(kind)
    if function is None:
        raise ProducerError(
            f"checksum {kind!r} cannot be computed here",
            allowed=", ".join(_KINDS),
            remedy="install xxhash" if kind == "xxh3" else "",
        )
    return function(data)


def capabilities() -> tuple[str, ...]:
    """What a HELLO says of checksums."""
    return tuple(_PREFIX + kind for kind in _KINDS)


def choose(offered: Iterable[str]) -> str:
    """The fastest kind that both sides have; every peer has `crc32`.

    Example:
        >>> choose(["shared_memory"])
        'crc32'
    """
    theirs = {name.removeprefix(_PREFIX) for name in offered if name.startswith(_PREFIX)}
    return next((kind for kind in _KINDS if kind in theirs), "crc32")
