"""What is wrong with a configuration: all problems in one error, each with its path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from insitu.errors import OperatorError

#: Where a value stands: names of settings and indices of lists, from the top.
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing to correct.

    Args:
        path: where; empty for the file as a whole.
        message: what is wrong, naming the value.
        allowed: what would be accepted, where there is something to say.
        hint: a likely correction.
        origin: where the value was set: a line of the file, a variable or an option.
    """

    path: Path
    message: str
    allowed: str = ""
    hint: str = ""
    origin: str = ""

    def __str__(self) -> str:
        """One line.

        Example:
            >>> print(Problem(("buffer", "capacity_samples"), "is 0", "1 or more", origin="line 3"))
            buffer.capacity_samples (line 3): is 0; allowed: 1 or more
        """
        place = ".".join(map(str, self.path)) or "the file"
        parts = [
            f"{place} ({self.origin}): {self.message}"
            if self.origin
            else f"{place}: {self.message}"
        ]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.hint:
            parts.append(self.hint)
        return "; ".join(parts)

    def under(self, path: Path) -> Problem:
        """The same problem of something that stands at `path`."""
        return replace(self, path=(*path, *self.path))


class ConfigError(OperatorError):
    """The configuration is not usable; `problems` has everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem], source: str) -> None:
        assert problems, "an error without a problem"
        self.problems = tuple(problems)
        self.source = source
        super().__init__(str(self), consequence="nothing was started")

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n".join([f"{self.source} has {count}:", *(f"  {p}" for p in self.problems)])
