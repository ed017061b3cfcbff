"""A doorbell that can be rung before it was emptied."""

from __future__ import annotations

import contextlib

from insitu_service.ingest.doorbell import Doorbell
from mutations.base import Mutation


def _too_early(self: Doorbell) -> None:
    self._rung = False
    with contextlib.suppress(BlockingIOError):
        self._inside.recv(4096)


MUTATIONS = {
    "doorbell: answered before it is emptied": Mutation(
        "insitu_service.ingest.doorbell:Doorbell.answer", _too_early, "tests/test_doorbell.py"
    ),
}
