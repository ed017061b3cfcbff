"""File descriptors: as many as the system gives, and no more connections than they are enough for.

A process that has none left cannot accept a connection, open a file of the log or write a
checkpoint, and ZeroMQ then tries to accept again and again. So the soft limit is raised to the hard
one, some are set aside for files, and connections are limited to the rest: whoever comes beyond
that is cut and tries again, as beyond `stream.max_connections`.
"""

from __future__ import annotations

import logging
import resource
from pathlib import Path

from insitu.config import Config

_log = logging.getLogger("insitu.daemon")

#: for what is opened later: log, checkpoints, hooks, HTTP, and a burst of connections
_SET_ASIDE = 64
#: opened between this look and the first connection: sockets, threads, the log
_OPENED_BY_PARTS = 48


def raise_limit() -> int:
    """Take all descriptors that may be had without rights; how many these are in all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # a kernel with a smaller limit of its own
            pass
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def connections_within(limit: int, open_now: int) -> int:
    """Connections that descriptors are enough for; at least one.

    Example:
        >>> connections_within(1024, 20), connections_within(100, 20)
        (892, 1)
    """
    return max(1, limit - open_now - _OPENED_BY_PARTS - _SET_ASIDE)


def within_descriptors(config: Config, limit: int) -> Config:
    """The configuration with as many connections and producers as this process can have."""
    stream = config.stream
    most = connections_within(limit, len(list(Path("/proc/self/fd").iterdir())))
    if most >= stream.max_connections:
        return config
    _log.warning(
        "stream.max_connections is %d, and the limit of %d file descriptors is enough for %d: "
        "further connections are cut; raise the limit (LimitNOFILE= of systemd, ulimit -Hn)",
        stream.max_connections,
        limit,
        most,
    )
    fewer = {"max_connections": most, "max_producers": min(most, stream.max_producers)}
    return config.model_copy(update={"stream": stream.model_copy(update=fewer)})
