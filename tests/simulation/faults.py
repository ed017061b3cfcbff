"""Which faults a schedule has, drawn from its seed: some kinds at all, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random


@dataclass(frozen=True)
class Weather:
    """What befalls single messages: probabilities, and the usual delay of one way.

    Args:
        copies_nothing: payloads are read when they arrive, not when they are sent, as ZeroMQ does
            with large frames.
    """

    delay_seconds: float = 0.005
    loses_upward: float = 0.0
    loses_downward: float = 0.0
    duplicates: float = 0.0
    reorders: float = 0.0
    corrupts: float = 0.0
    spikes: float = 0.0
    copies_nothing: bool = False

    @classmethod
    def drawn(cls, random: Random) -> Weather:
        rates = {
            field.name: random.choice((0.0, 0.0, 0.005, 0.03, 0.1))
            for field in fields(cls)
            if field.type == "float" and field.name != "delay_seconds"
        }
        return cls(
            delay_seconds=random.choice((0.0002, 0.005, 0.05, 0.4)),
            copies_nothing=random.random() < 0.5,
            **rates,  # type: ignore[arg-type]
        )

    def calm(self) -> Weather:
        """The same distance without faults."""
        return Weather(self.delay_seconds)


#: what befalls processes and connections; the names of methods of `Machine` and `Fleet`
BLOWS = (
    "cut", "block_both_ways", "block_upward", "block_downward",
    "crash_service", "crash_service_in_a_turn", "stop_service", "stall_service", "stall_learner",
    "checkpoint", "stall_producer", "kill_producer", "relaunch_beside", "end_producer",
    "jump_wall_clock", "lose_power", "crash_in_the_middle_of_writing", "fill_disk", "break_disk",
    "stall_disk",
)  # fmt: skip


def drawn_blows(random: Random, seconds: float) -> list[tuple[float, str]]:
    """(when, what), in order: of a third of the kinds, a few each."""
    kinds = [kind for kind in BLOWS if random.random() < 0.35]
    blows = [
        (random.uniform(0.0, seconds), kind) for kind in kinds for _ in range(random.randint(1, 3))
    ]
    return sorted(blows)
