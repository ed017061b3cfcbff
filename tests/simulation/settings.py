"""What a schedule's configuration file would say; the same in every life of the service."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from insitu.wire.messages import AckLevel
from simulation.samples import ROW_BYTES


@dataclass(frozen=True)
class Settings:
    ack_level: AckLevel
    capacity_samples: int
    batch_size: int
    policy: str
    free_pace: bool
    when_full: str
    max_fragment_bytes: int
    heartbeat_seconds: float
    timeout_seconds: float
    turn_messages: int
    turn_seconds: float
    step_seconds: float
    segment_bytes: int
    spill_samples: int
    sync_seconds: float

    @property
    def has_log(self) -> bool:
        return self.ack_level != AckLevel.RECEIVED

    @classmethod
    def drawn(cls, random: Random, ack_level: AckLevel) -> Settings:
        capacity = random.choice((8, 16, 40, 64))
        heartbeat = random.choice((0.5, 1.0, 2.0))
        return cls(
            ack_level=ack_level,
            capacity_samples=capacity,
            batch_size=random.choice([n for n in (1, 3, 5, 8) if n <= capacity // 4]),
            policy=random.choice(("fifo", "firo")),
            free_pace=random.random() < 0.5,
            when_full=random.choice(("block", "block", "drop_oldest", "drop_newest")),
            max_fragment_bytes=random.choice((1 << 20, 3 * ROW_BYTES, ROW_BYTES + 5)),
            heartbeat_seconds=heartbeat,
            timeout_seconds=6 * heartbeat,
            turn_messages=random.choice((1, 4, 256)),
            turn_seconds=random.choice((0.0001, 0.01)),
            step_seconds=random.choice((0.001, 0.02, 0.3)),
            segment_bytes=random.choice((2048, 8192, 65536)),
            spill_samples=random.choice((0, 0, 30)),
            sync_seconds=random.choice((0.001, 0.02, 0.5)),
        )
