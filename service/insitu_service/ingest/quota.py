"""Quotas: how much credit one producer may be given, so many bytes a second and a burst.

A token bucket: it holds at most a burst and fills at the quota's rate; credit is paid from it.
What a producer has no credit for it does not send, so nothing is dropped here: it waits in the
producer's window, and the producer's own policy says what happens when that is full.

Pure arithmetic on a clock that is handed in; property-tested. As a bucket of a producer that was
away is full again, only those that are not full need to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable


class TokenBucket:
    """Bytes that may be given away, on average `bytes_per_second`.

    Args:
        bytes_per_second: the rate; more than 0.
        burst_bytes: what it holds at most, and at first.
        now: seconds of a clock that only rises.

    Example:
        >>> bucket = TokenBucket(100.0, 50.0, now=0.0)
        >>> bucket.take(30.0, now=0.0), bucket.left(0.0), bucket.left(0.1), bucket.left(9.0)
        (None, 20.0, 30.0, 50.0)
    """

    def __init__(self, bytes_per_second: float, burst_bytes: float, now: float) -> None:
        self._rate = bytes_per_second
        self._burst = burst_bytes
        self._left = burst_bytes
        self._at = now

    def left(self, now: float) -> float:
        """Bytes that may be taken now; negative while it is in debt."""
        earned = max(0.0, now - self._at) * self._rate
        return min(self._burst, self._left + earned)

    def take(self, bytes_: float, now: float) -> None:
        """Take so many, of those that are left or beyond."""
        self._left = self.left(now) - bytes_
        self._at = max(self._at, now)

    def give_back(self, bytes_: float, now: float) -> None:
        """What was taken and never used."""
        self.take(-bytes_, now)
        self._left = min(self._left, self._burst)

    def wait_seconds(self, bytes_: float, now: float) -> float:
        """Until so many are left; they must be no more than the burst."""
        return max(0.0, (bytes_ - self.left(now)) / self._rate)


class Quotas:
    """One token bucket for each producer id.

    Args:
        bytes_per_second: of one producer.
        row_bytes: of one sample; credit is given for whole samples.
        clock: monotonic seconds.

    The burst is what a second brings, and one sample at least. Credit is given in pieces of a
    quarter of it, so that a slow producer is not acknowledged sample by sample.
    """

    def __init__(
        self, bytes_per_second: float, *, row_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._rate = bytes_per_second
        self._row_bytes = row_bytes
        self._burst = max(float(row_bytes), bytes_per_second)
        self._piece = max(row_bytes, self._whole(self._burst / 4))
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    @classmethod
    def of(
        cls,
        samples_per_second: float | None,
        bytes_per_second: float | None,
        *,
        row_bytes: int,
        clock: Callable[[], float],
    ) -> Quotas | None:
        """Of the smaller of the two rates that are given; None without any."""
        rates = [] if bytes_per_second is None else [bytes_per_second]
        if samples_per_second is not None:
            rates.append(samples_per_second * row_bytes)
        return cls(min(rates), row_bytes=row_bytes, clock=clock) if rates else None

    @property
    def now(self) -> float:
        return self._clock()

    def grant(self, producer_id: str, wanted_bytes: int) -> int:
        """Credit for this producer now: whole samples of at most `wanted_bytes`, or 0."""
        now = self._clock()
        bucket = self._bucket(producer_id, now)
        granted = self._whole(min(float(wanted_bytes), bucket.left(now)))
        if granted < min(self._piece, self._whole(wanted_bytes)):
            return 0
        bucket.take(granted, now)
        return granted

    def give_back(self, producer_id: str, unused_bytes: int) -> None:
        """The session of this producer has ended with so much credit unused."""
        now = self._clock()
        self._bucket(producer_id, now).give_back(unused_bytes, now)
        self._forget(now)

    def wait_seconds(self, producer_id: str) -> float:
        """Until the next piece of credit for this producer."""
        now = self._clock()
        return self._bucket(producer_id, now).wait_seconds(self._piece, now)

    def _bucket(self, producer_id: str, now: float) -> TokenBucket:
        found = self._buckets.get(producer_id)
        if found is None:
            found = self._buckets[producer_id] = TokenBucket(self._rate, self._burst, now)
        return found

    def _forget(self, now: float) -> None:
        """Full buckets are as good as new ones."""
        full = [name for name, bucket in self._buckets.items() if bucket.left(now) >= self._burst]
        for name in full:
            del self._buckets[name]

    def _whole(self, bytes_: float) -> int:
        return int(bytes_ // self._row_bytes) * self._row_bytes
