"""A service without a learner, for measuring its parts in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import zmq

from insitu.config import check_config
from insitu_service.compose import Service, compose


@contextmanager
def running_ingest(config: Mapping[str, Any], *, resume: bool = False) -> Iterator[Service]:
    """A composed service whose ingest thread runs; whoever enters is its learner."""
    context: zmq.Context[Any] = zmq.Context()
    service = compose(check_config(config), context, resume=resume)
    if service.log is not None:
        service.log.syncer.start()
    thread = threading.Thread(target=service.ingest.run, name="ingest", daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.ingest.stop()
        thread.join()
        service.hooks.close()
        if service.writer is not None:
            service.writer.close()
        if service.log is not None:
            service.log.close()
        context.destroy(linger=0)
