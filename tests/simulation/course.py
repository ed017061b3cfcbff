"""A simulation that makes the same rows in every run, and begins at the last cursor (`resumes`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from insitu.wire.batches import Label
from insitu.wire.session import ProducerSession
from insitu.wire.values import Cursor
from insitu_producers.resumption import Resumption
from simulation.life import Life


@dataclass(frozen=True)
class Part:
    """What is pushed at once: so many rows, and the first one's number in its life.

    Args:
        first_row: None where the window's count says it.
        cursor: None to tell none; with `first_row` None it is the row behind.
    """

    rows: int
    label: Label
    first_row: int | None = None
    cursor: Cursor = None


class Course:
    """The rows of one run; its cursors are places in the whole simulation.

    Row 0 of a life is the one right behind the cursor that it began at, so the bytes of a row say
    where its life has it and not where its window counts it.

    Args:
        random: says which pushes are large, and which have no cursor.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._cursorless = random.choice((0.0, 0.4, 0.9))
        self._large = random.choice((0.0, 0.1, 0.4))
        #: pauses between pushes are so much of the usual
        self.hurry = random.choice((0.3, 0.6, 1.0))
        self._place = 0
        self._resumption: Resumption | None = None

    @property
    def left_out_rows(self) -> int:
        return 0 if self._resumption is None else self._resumption.left_out_rows

    def begin(self, session: ProducerSession, life: Life) -> bool:
        """As `Producer.push` before the first push; False while the service has said nothing."""
        if self._resumption is None and session.welcome is not None:
            self._resumption = Resumption.of(session)
            cursor = session.last_cursor or 0
            assert isinstance(cursor, int)
            self._place = cursor
            life.begins_behind(cursor, session.window.next_row)
        return self._resumption is not None

    def parts(self, rows: int, label: Label, most_rows: int, life: Life) -> Iterator[Part]:
        """What is new of a push, cut as `Pusher.push` does where the window is small."""
        random, resumption = self._random, self._resumption
        assert resumption is not None
        assert life.base is not None
        rows *= 4 if random.random() < self._large else 1
        numbers = np.arange(self._place, self._place + rows) - life.base
        self._place += rows
        cursor = None if random.random() < self._cursorless else self._place
        if not resumption.is_over:
            (numbers,), rows, _ = resumption.leave_out([numbers], rows, None)
        for start in range(0, rows, most_rows):
            stop = min(start + most_rows, rows)
            newest = cursor if stop == rows else None
            yield Part(stop - start, label, int(numbers[start]), newest)
