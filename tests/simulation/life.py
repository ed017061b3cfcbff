"""One run of a producer, as the books know it: what it pushed, and what it never sent."""

from __future__ import annotations

from insitu.wire.sender import SendWindow
from simulation.samples import is_poisoned


class Broken(AssertionError):  # noqa: N818
    """A book that does not balance, or a schedule that gets nowhere."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


class Life:
    """One run of a producer: what it pushed, and what it dropped without ever sending it."""

    def __init__(
        self, number: int, producer_id: str, epoch: int, *, poisons: bool, resumes: bool = False
    ) -> None:
        self.resumes = resumes
        self.number = number
        self.producer_id = producer_id
        self.epoch = epoch
        self.poisons = poisons
        #: of a run that resumes: where row 0 lies in the whole simulation, and the first row that
        #: is not left out; None until its producer knows
        self.base: int | None = None
        self.begun = 0
        self.pushed = 0
        self.dropped: set[int] = set()
        self.poisoned: set[int] = set()
        self._before: set[int] = set()
        self._known_drops = 0
        self._pushing = False

    def begins_behind(self, cursor: int, row: int) -> None:
        """A run that resumes was told where, before it pushed anything."""
        require(self.base is None and not self.pushed, f"{self.producer_id} begins once more")
        self.base, self.begun, self.pushed = cursor, row, row

    @property
    def has_pushed(self) -> bool:
        return self.pushed > self.begun

    def begin_push(self, window: SendWindow) -> None:
        self._before = set(pending(window)) if window.books.pending_rows else set()
        self._pushing = True

    def end_push(self, window: SendWindow) -> None:
        """Rows that are neither in the window now nor sent were dropped."""
        books, first = window.books, self.pushed
        self.pushed = window.next_row
        self._pushing = False
        if books.dropped_rows_in_all != self._known_drops:
            gone = self._before | set(range(first, self.pushed))
            gone.difference_update(pending(window))
            require(
                len(gone) == books.dropped_rows_in_all - self._known_drops,
                f"{self.producer_id} counts {books.dropped_rows} dropped rows, {gone} are gone",
            )
            self._known_drops = books.dropped_rows_in_all
            self.dropped |= gone
        if self.poisons:
            new = range(first, self.pushed)
            self.poisoned.update(row for row in new if is_poisoned(self.number, row))
            self.poisoned -= self.dropped

    def goes_on(self, window: SendWindow) -> None:
        """The process was killed, and its window was found again."""
        if self._pushing:
            self.end_push(window)
        same = window.next_row == self.pushed
        require(same, f"{self.producer_id} is at row {window.next_row}, not {self.pushed}")


def pending(window: SendWindow) -> list[int]:
    """Numbers of the rows in a window."""
    return [
        row
        for batch in (*window._in_flight, *window._unsent)
        for row in range(batch.first_row, batch.first_row + batch.rows)
    ]
