"""What the demo shows: two streams, and two ways to learn from each."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class Variant:
    """A way to learn: the scenario's configuration with some settings changed."""

    name: str
    overrides: tuple[str, ...] = ()


#: The same service without its strategies, and as configured.
VARIANTS = (Variant("no replay", ("strategies=[]",)), Variant("replay + EWC"))


@dataclass(frozen=True)
class Scenario:
    """A stream: the program that pushes it, and the configuration of the service that learns.

    Args:
        name: short, for file names and the command line.
        title: for people.
        task_word: what a task is called here.
        config: name of the YAML file beside this module.
        source: module of the program that pushes.
        arguments: of that program, besides endpoints and seed.
        samples: how many samples it pushes to be trained, for the progress bar.
    """

    name: str
    title: str
    task_word: str
    config: str
    source: str
    arguments: tuple[str, ...]
    samples: int

    @property
    def config_path(self) -> Path:
        return Path(str(resources.files("insitu_service.demo") / self.config))

    def source_command(self, endpoints: list[str], seed: int) -> list[str]:
        """The command line of the producer that pushes to all these services."""
        addresses = [word for endpoint in endpoints for word in ("--endpoint", endpoint)]
        return [sys.executable, "-m", self.source, *addresses, "--seed", str(seed), *self.arguments]


DIGITS = Scenario(
    name="digits",
    title="1,797 handwritten digits, two classes at a time, every image seen once",
    task_word="digits",
    config="digits.yaml",
    source="insitu_producers.sources.digits",
    arguments=(),
    samples=1438,
)

_MEMBERS, _HELD_OUT, _PUSHES, _REGIMES = 36, 4, 100, 4

REACTION_DIFFUSION = Scenario(
    name="reaction-diffusion",
    title="a Gray-Scott simulation that steps through regimes, its fields learned as they come",
    task_word="regime",
    config="reaction_diffusion.yaml",
    source="insitu_producers.sources.reaction_diffusion",
    arguments=(
        *("--size", "32", "--members", str(_MEMBERS), "--held-out-members", str(_HELD_OUT)),
        *("--pushes-per-regime", str(_PUSHES)),
    ),
    samples=(_MEMBERS - _HELD_OUT) * _PUSHES * _REGIMES,
)

SCENARIOS = (DIGITS, REACTION_DIFFUSION)
