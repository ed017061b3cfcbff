"""A door that leads nowhere: it takes in whatever comes, and lets go of it.

    python -m chaos.decoy OPTIONS.json

Whoever floods this machine takes processor time from all that is on it, by sending and by being
received at all. Beside one who floods a decoy is measured how much.

Words on its input: `port` and `finish`; each is answered by a line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq


@dataclass(frozen=True)
class Decoying:
    """What the process is told.

    Args:
        most_bytes: of a message, as the service has it.
    """

    most_bytes: int = 4 << 20


@contextmanager
def _open(told: Decoying) -> Iterator[tuple[zmq.Socket[bytes], int]]:
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.MAXMSGSIZE, told.most_bytes)
    try:
        yield router, router.bind_to_random_port("tcp://127.0.0.1")
    finally:
        context.destroy(linger=0)


def _live(told: Decoying) -> None:
    with _open(told) as (router, port):
        finished = threading.Event()
        taken = threading.Thread(target=_take, args=(router, finished))
        taken.start()
        for line in sys.stdin:
            if line.strip() != "port":
                break
            print(json.dumps({"port": port}), flush=True)
        finished.set()
        taken.join()
    print("{}", flush=True)


def _take(router: zmq.Socket[bytes], finished: threading.Event) -> None:
    while not finished.is_set():
        if router.poll(100):
            router.recv_multipart(copy=False)


if __name__ == "__main__":
    _live(Decoying(**json.loads(Path(sys.argv[1]).read_text())))
