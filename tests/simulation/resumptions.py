"""Which producers of a schedule resume, drawn from a generator of its own."""

from __future__ import annotations

from random import Random

from simulation.course import Course

#: beside kills of producers, what such a schedule may have more of
_WITH_THEM = (
    "relaunch_beside", "crash_service_in_a_turn", "checkpoint", "break_disk", "fill_disk",
    "stall_disk", "end_producer", "cut",
)  # fmt: skip


class Resumptions:
    """Which producers of a schedule resume, and what more befalls such a schedule.

    Args:
        random: of a seed of its own, so that schedules without them are what they were.
        busy_seconds: how long producers push.
    """

    def __init__(self, random: Random, busy_seconds: float, *, wanted: bool) -> None:
        self.random = random
        self._share = 0.75 if wanted and random.random() < 0.5 else 0.0
        self._resumes: dict[str, bool] = {}
        #: such a schedule is longer, so that there is time for several runs
        self.busy_seconds = 2 * busy_seconds if self._share else busy_seconds
        self.blows = self._drawn_blows(self.busy_seconds) if self._share else []

    def _drawn_blows(self, seconds: float) -> list[tuple[float, str]]:
        """(when, what): kills of such producers in the first place."""
        random = self.random
        kinds = ["kill_in_a_run"] * random.randint(1, 8)
        kinds += ["crash_service", "lose_power"] * random.randint(0, 2)
        kinds += [kind for kind in _WITH_THEM if random.random() < 0.25]
        return sorted((random.uniform(0.0, seconds), kind) for kind in kinds)

    def course(self, producer_id: str) -> Course | None:
        """For a run of a producer; all runs of one go on or none does."""
        if not self._share:
            return None
        random = self.random
        resumes = self._resumes.setdefault(producer_id, random.random() < self._share)
        return Course(random) if resumes else None
