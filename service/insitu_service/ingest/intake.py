"""What came in and what became of it: counters of the ingest thread, read by everybody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

#: producers whose figures are kept apart; later ones share those of `other`
_MOST_PRODUCERS = 10_000


@dataclass(slots=True)
class ProducerFigures:
    """What one producer sent, and what it told of itself; outlives its sessions."""

    accepted_samples: int = 0
    pushed_samples: int = 0
    dropped_samples: int = 0
    blocked_seconds: float = 0.0
    throttled_seconds: float = 0.0  # waiting for its quota


class Intake:
    """Counters over the life of this process; plain numbers that only grow."""

    def __init__(self) -> None:
        self.messages = 0
        self.producers: dict[str, ProducerFigures] = {}
        self.received_samples = 0  # rows of complete batches, refused ones included
        self.received_bytes = 0
        self.accepted_samples = 0
        self.probe_samples = 0
        self.quarantined_samples: Counter[str] = Counter()  # by NACK code
        self.duplicate_batches = 0
        self.go_backs = 0
        self.lost_samples = 0  # acknowledged in memory by an earlier life, never seen again
        self.producer_dropped_samples = 0
        self.refused_messages: Counter[str] = Counter()  # by reason
        self.refused_hellos: Counter[str] = Counter()  # by code
        self.broken_connections: Counter[str] = Counter()  # by reason
        self.refused_handshakes: Counter[str] = Counter()  # by reason
        self.cut_connections: Counter[str] = Counter()  # by reason
        self.connections = 0  # open now
        self.expired_sessions = 0
        self.fenced_sessions = 0
        self.full_batches = 0  # came without room and were asked for again
        self.unsent_messages = 0  # to peers that are gone or never read

    def of_producer(self, producer_id: str) -> ProducerFigures:
        """The figures of a producer, made when it first comes."""
        full = len(self.producers) >= _MOST_PRODUCERS and producer_id not in self.producers
        return self.producers.setdefault("other" if full else producer_id, ProducerFigures())
