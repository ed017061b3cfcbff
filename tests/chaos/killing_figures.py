"""What a run of `chaos.killing` is to do, and what it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chaos.books import Books


@dataclass(frozen=True)
class Plan:
    """What is done, all of it drawn from the seed.

    Args:
        kills: of the service.
        level: what an ack is worth: `received` (no log), `logged` or `durable`.
        producers: processes that push.
        producer_kills: of producers, beside those of the service.
        producer_stops: SIGSTOP on producers, some for longer than a session lasts.
        window: producers keep what is not acknowledged in files; else what was pushed last dies
            with them, and is pushed again from the service's cursor on. That is exact for pushes
            that are never cut, so they are of one row then.
        segment_bytes: of the log; small, so that a kill meets a new segment now and then.
        power: the power goes with the process: what was not synced is forgotten or torn.
    """

    kills: int
    level: str = "logged"
    producers: int = 4
    producer_kills: int = 0
    producer_stops: int = 0
    window: bool = False
    seed: int = 1
    segment_bytes: int = 1 << 20
    power: bool = False

    @property
    def keeps_log(self) -> bool:
        """All of it, so that it can be replayed from its first record; else it is released."""
        return self.level == "logged" and not self.power

    @property
    def most_rows(self) -> int:
        """Of a push."""
        return 1 if self.producer_kills and not self.window else 8

    @property
    def lossless(self) -> bool:
        """Whether what was acknowledged must be there after each of the faults."""
        return self.level == "durable" or (self.level == "logged" and not self.power)

    @property
    def with_bad(self) -> bool:
        """Where rows are lost, a bad one would be in two accounts, lost and quarantined."""
        return self.lossless


@dataclass
class KillingFigures:
    """What was done and what came of it."""

    plan: Plan
    faults: Counter[str] = field(default_factory=Counter)
    books: Books | None = None
    lost: int = 0  # as the service counts them
    repeated_steps: int = 0
    changed_steps: int = 0
    steps: int = 0
    differences: list[str] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)  # by `insitu log verify`
    replay_differences: list[str] | None = None  # to `insitu replay`, where the log was kept
    forgotten_bytes: int = 0
    slowest_start_seconds: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        same = "bit-identical to" if not self.differences else f"not those ({self.differences}) of"
        windows = " with windows in files" if self.plan.window else ""
        power = f", {self.forgotten_bytes:,} bytes forgotten" if self.plan.power else ""
        return (
            f"killing at {self.plan.level!r}, {self.plan.producers} producers{windows}, seed "
            f"{self.plan.seed}, {self.seconds:.0f} s: {faults}{power}\n{self.books}\n"
            f"{self.lost:,} lost; {self.repeated_steps:,} steps were trained again with the same "
            f"rows, {self.changed_steps:,} with others; after {self.steps:,} steps the weights are "
            f"{same} an undisturbed run{self._witnesses()}{self._starts()}"
        )

    def _starts(self) -> str:
        """How long a service took that had to start again."""
        slowest = self.slowest_start_seconds
        return f"; slowest start after a kill {slowest:.1f} s" if slowest else ""

    def _witnesses(self) -> str:
        """What the log has to say, if there is one."""
        if self.plan.level == "received":
            return ""
        said = f", log verify finds {len(self.flaws)} flaws"
        if self.replay_differences is None:
            return said
        replayed = "the same" if not self.replay_differences else f"{self.replay_differences}"
        return f"{said}, its replay gives {replayed}"
