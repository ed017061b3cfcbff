"""The files below a directory or inside a tar archive, one after the other, nothing unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from insitu.errors import OperatorError


def files_in(place: Path) -> Iterator[tuple[str, bytes]]:
    """(path inside, content) of every file; of a directory in the order of the paths.

    Args:
        place: a directory, or a .tar, .tar.gz, .tar.bz2 or .tar.xz, which is read in one go and
            in its own order.

    Raises:
        OperatorError: it is neither, or the archive is damaged.
    """
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file():
                yield path.relative_to(place).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(place, "r|*") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name.removeprefix("./"), content.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise OperatorError(
            f"{place} cannot be read: {error}",
            allowed="a directory, or a tar archive (plain, gz, bz2, xz)",
            consequence="there are no images",
        ) from error
