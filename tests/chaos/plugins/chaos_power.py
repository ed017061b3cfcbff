"""A shim below a service's files: remembers what was synced, so that power can be "lost".

Imported into the process under test (as `chaos_power:Seen`, which is `chaos_seen:Seen`), it stands
in for `os.fsync` and `os.fdatasync`. Before a file is synced its bytes are kept, and after the
sync they count; a directory's names likewise. `chaos.power_loss` makes of that what a disk may
hold after the power came back. Names that no directory sync covered do not count, which is
stricter than most file systems are.

`CHAOS_SHADOW` is where it keeps this, on the same file system. Each file gets a second name there,
so that its number is not used again while somebody may ask for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading

from chaos_seen import Seen

_SHADOW = os.environ.get("CHAOS_SHADOW", "")
_real_fsync, _real_fdatasync = os.fsync, os.fdatasync
_publishing = threading.Lock()

__all__ = ["Seen"]


def _fsync(descriptor: int) -> None:
    _synced(descriptor, _real_fsync)


def _fdatasync(descriptor: int) -> None:
    _synced(descriptor, _real_fdatasync)


def _synced(descriptor: int, sync) -> None:  # type: ignore[no-untyped-def]
    """Keep what is there now, sync, and let what was kept count."""
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    about = os.fstat(number)
    if stat.S_ISDIR(about.st_mode):
        kept = json.dumps(_names(number)).encode()
        name = f"names-{about.st_ino}"
    else:
        kept = _bytes(number, about.st_size)
        name = f"bytes-{about.st_ino}"
        _hold(os.readlink(f"/proc/self/fd/{number}"), about.st_ino)
    sync(number)
    _publish(name, kept)


def _names(directory: int) -> dict[str, int]:
    """Name -> number, of what is in a directory; what it names cannot be forgotten."""
    names = {}
    place = os.readlink(f"/proc/self/fd/{directory}")
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            about = os.stat(name, dir_fd=directory)
            names[name] = about.st_ino
            if stat.S_ISREG(about.st_mode):
                _hold(f"{place}/{name}", about.st_ino)
    return names


def _hold(path: str, number: int) -> None:
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.link(path, f"{_SHADOW}/file-{number}")


def _bytes(descriptor: int, size: int) -> bytes:
    with open(f"/proc/self/fd/{descriptor}", "rb", buffering=0) as file:
        return os.pread(file.fileno(), size, 0)


def _publish(name: str, kept: bytes) -> None:
    """Whole or not at all, for this process may be killed here."""
    with _publishing:
        partial = f"{_SHADOW}/{name}.partial"
        with open(partial, "wb", buffering=0) as file:
            file.write(kept)
        os.rename(partial, f"{_SHADOW}/{name}")


if _SHADOW:  # else somebody only looks at this module
    os.fsync, os.fdatasync = _fsync, _fdatasync
