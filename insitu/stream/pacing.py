"""Pace: how many arrivals are let in before each draw. Pure arithmetic, no clock, no lock.

Reverb (Cassirer et al., 2021, section 3.4) keeps the difference

    D = inserts * samples_per_insert - samples

in a corridor: a sample is allowed only above its floor, an insert only below its ceiling.
Here an arrival waits in a queue until it is *admitted* (the insert), and with a watermark of
`w` samples that always stay behind, the draw of `batch_size` more is allowed when

    (inserts - w) * samples_per_insert - samples >= batch_size.            (1)

`FixedPace` admits, before each draw, exactly as many as (1) asks for, and waits until they are
there. So floor and ceiling lie one batch apart, and every draw is a function of the order of
arrival and the seed only, never of timing: that is what makes a resumed run bit-identical.
`FreePace` admits whatever has arrived and bounds each sample by itself.

Deviations: Reverb blocks the writer at the ceiling; here the writer is blocked by the ring that
the arrivals wait in (no free slot, no credit). And where a reservoir full of unseen samples has
no room for all that (1) asks for, it draws all the same, which makes room, and what was missing
is forgiven: counted as if it had never been drawn.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from insitu.errors import OperatorError


class Pace(Protocol):
    """What the stream buffer asks of a pace."""

    @property
    def linger_seconds(self) -> float | None:
        """How long a partial batch waits to be filled; None for ever."""

    @property
    def most_draws(self) -> int | None:
        """How often one sample may be drawn; None without limit."""

    def wanted(
        self, *, inserted: int, sampled: int, batch_size: int, watermark: int, arrived: int
    ) -> int:
        """Arrivals to admit before the next draw of `batch_size`; it waits until they are there.

        Args:
            inserted: samples admitted so far, without those dropped before they were drawn.
            sampled: rows drawn so far.
            watermark: samples that the policy keeps behind.
            arrived: samples in the arrival queue.
        """

    def most_wanted(self, batch_size: int) -> int:
        """The most that `wanted` asks for at one draw once the watermark is reached."""

    def worth(self, inserts: int) -> int:
        """Rows that so many inserts allow to draw, rounded down."""

    def state_dict(self) -> dict[str, int | float]: ...


class FixedPace:
    """Admit by count: each draw waits for its arrivals, and nothing depends on time.

    Args:
        samples_per_insert: rows trained for each sample that arrives, on average; 1 with
            FIFO and FIRO, which draw each sample once.

    Example:
        >>> FixedPace(4.0).wanted(
        ...     inserted=0, sampled=0, batch_size=64, watermark=100, arrived=0)
        116
    """

    linger_seconds: float | None = None
    most_draws: int | None = None

    def __init__(self, samples_per_insert: float = 1.0) -> None:
        self.samples_per_insert = _positive(samples_per_insert)
        # exact, so that counts of any size round the same way on every machine; as two whole
        # numbers, since arithmetic on fractions costs more than the rest of a draw
        ratio = Fraction(samples_per_insert).limit_denominator(1_000_000)
        self._rows, self._inserts = ratio.numerator, ratio.denominator

    def wanted(
        self, *, inserted: int, sampled: int, batch_size: int, watermark: int, arrived: int
    ) -> int:
        return max(0, watermark + self._inserts_for(sampled + batch_size) - inserted)

    def most_wanted(self, batch_size: int) -> int:
        return self._inserts_for(batch_size) + (self._rows != self._inserts)

    def worth(self, inserts: int) -> int:
        return inserts * self._rows // self._inserts

    def state_dict(self) -> dict[str, int | float]:
        return {"samples_per_insert": self.samples_per_insert}

    def _inserts_for(self, rows: int) -> int:
        """Inserts that so many rows need, rounded up."""
        return -(-rows * self._inserts // self._rows)


class FreePace:
    """Admit all that arrived; draw whenever the policy has something.

    With the reservoir the device is busy while the stream is slow, but no sample is drawn more
    than `samples_per_insert` times.

    Args:
        samples_per_insert: the most often that one sample may be drawn; parts of one do not count.
        linger_seconds: how long a batch that is not full yet waits; None waits for ever.
    """

    def __init__(self, samples_per_insert: float = 1.0, linger_seconds: float | None = 1.0) -> None:
        if samples_per_insert < 1:
            raise OperatorError(
                f"samples_per_insert is {samples_per_insert} with the free pace",
                allowed="1 or more: every sample is trained at least once",
            )
        if linger_seconds is not None and not linger_seconds >= 0:
            raise OperatorError(
                f"linger_seconds is {linger_seconds}", allowed="0 or more, or null for ever"
            )
        self.samples_per_insert = _positive(samples_per_insert)
        self.linger_seconds = linger_seconds
        self.most_draws: int | None = int(samples_per_insert)

    def wanted(
        self, *, inserted: int, sampled: int, batch_size: int, watermark: int, arrived: int
    ) -> int:
        return arrived

    def worth(self, inserts: int) -> int:
        return 0

    def most_wanted(self, batch_size: int) -> int:
        return batch_size if self.linger_seconds is None else 1

    def state_dict(self) -> dict[str, int | float]:
        return {"samples_per_insert": self.samples_per_insert}


def _positive(samples_per_insert: float) -> float:
    if not 0 < samples_per_insert < 1e6:
        raise OperatorError(
            f"samples_per_insert is {samples_per_insert}", allowed="above 0, below a million"
        )
    return float(samples_per_insert)
