"""A simulation as a process of its own: pushes rows until it is told otherwise on its input.

    python -m chaos.pushing OPTIONS.json

Words on its input: `pause` (push no more, wait until all is acknowledged, say `paused`), `go`,
`finish` (the same as pause, then end the stream and say `finished`). It goes on from the cursor
that the service has of it, as a restarted simulation does.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chaos.ledger import Ledger
from chaos.rows import SCHEMA, STREAM, ids_of, is_bad, rows_of
from insitu_producers import Producer

_FLUSH_SECONDS = 120.0


@dataclass(frozen=True)
class Pushing:
    """What a producer's process is told.

    Args:
        index: of the producer.
        ledger: path of its book.
        most_rows: of a push; at least 1.
        pause_seconds: between two pushes.
        with_bad: some rows have NaN in them, see `is_bad`.
        synced: the ledger is synced at every push.
        producer: further arguments of `Producer`.
    """

    endpoint: str
    index: int
    ledger: str
    most_rows: int = 8
    pause_seconds: float = 0.0
    with_bad: bool = True
    synced: bool = True
    producer: dict[str, Any] = field(default_factory=dict)


def push_until_told(told: Pushing, words: queue.Queue[str]) -> None:
    """The life of the process."""
    how = {"window_bytes": 128_000, "linger_seconds": _FLUSH_SECONDS, "block_timeout_seconds": None}
    # a window that survives has the whole pushes, and each with its cursor
    how |= {"resumes": "window_directory" not in told.producer} | told.producer
    ledger = Ledger(Path(told.ledger), synced=told.synced)
    source = random.Random(told.index)
    with Producer(
        told.endpoint, stream=STREAM, producer_id=f"rank-{told.index}", schema=SCHEMA, **how
    ) as producer:
        producer.wait_connected(_FLUSH_SECONDS)
        row = int(producer.last_cursor or 0)
        ledger.going_on(row)
        print(f"began {row}", flush=True)
        while _wants_more(producer, words, row):
            stop = row + source.randint(1, told.most_rows)
            ledger.pushing(row, stop)
            arrays = rows_of(told.index, row, stop)
            if told.with_bad:
                arrays["x"][[is_bad(each) for each in range(row, stop)]] = np.nan
            producer.push(arrays, cursor=stop, sample_ids=ids_of(told.index, row, stop))
            row = stop
            time.sleep(told.pause_seconds)
    ledger.close()
    print(f"finished {row}", flush=True)


def _wants_more(producer: Producer, words: queue.Queue[str], row: int) -> bool:
    """False when the stream is to end; waits through a pause."""
    word = "go" if words.empty() else words.get()
    while word != "go":
        logging.info("%s at row %d: %s", word, row, producer.stats())
        producer.flush(_FLUSH_SECONDS)
        if word == "finish":
            return False
        print(f"paused {row}", flush=True)
        word = words.get()
    return True


def _listen(words: queue.Queue[str]) -> None:
    for line in sys.stdin:
        words.put(line.strip())
    words.put("finish")  # whoever started us is gone


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    heard: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(heard,), daemon=True).start()
    push_until_told(Pushing(**json.loads(Path(sys.argv[1]).read_text())), heard)
