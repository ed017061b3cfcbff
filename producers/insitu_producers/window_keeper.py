"""Where a producer's window lives: in its own memory, or in files that survive it."""

from __future__ import annotations

import time
from pathlib import Path

from insitu.errors import ProducerError
from insitu.schema import Schema
from insitu.wire.sender import SendWindow
from insitu.wire.surviving import SurvivingWindow
from insitu.wire.values import Cursor
from insitu_producers.window_file import WindowFile


class WindowKeeper:
    """Makes the window of a producer, or finds that of a former process, and puts it away.

    Args:
        directory: for the files; None keeps the window in memory.
        stream, producer_id: whose window it is.
        window_bytes: of a new window.
        epoch: number of this run; None: that of the window that is found, or the clock.

    Raises:
        ProducerError: `epoch` is not that of the window that is found, and rows are in it.
        OperatorError: the files cannot be used, or another process uses them.
    """

    def __init__(
        self,
        directory: Path | None,
        stream: str,
        producer_id: str,
        window_bytes: int,
        epoch: int | None,
    ) -> None:
        self.epoch = time.time_ns() if epoch is None else epoch
        #: what a former process left here
        self.recovered_rows = 0
        self.recovered_cursor: Cursor = None
        self.recovered_rows_behind_cursor = 0
        self._window_bytes = window_bytes
        self._found: SurvivingWindow | None = None
        self._file = None if directory is None else WindowFile(directory, stream, producer_id)
        try:
            self._find(epoch)
        except BaseException:
            self.close(remove=False)
            raise

    def _find(self, epoch: int | None) -> None:
        found = self._file.recover() if self._file is not None else None
        if found is None:
            return
        window, found_epoch = found
        rows = window.books.pending_rows
        if epoch is not None and epoch != found_epoch:
            if rows:
                raise ProducerError(
                    f"epoch is {epoch}, and the window that was found is of epoch {found_epoch}",
                    allowed=f"{found_epoch}, or none",
                    consequence=f"{rows} rows of it are not delivered yet",
                    remedy="leave epoch out, so that the producer goes on where it was",
                )
            return
        self._found, self.epoch = window, found_epoch
        self.recovered_rows, self.recovered_cursor = rows, window.newest_cursor
        self.recovered_rows_behind_cursor = window.rows_behind_cursor

    @property
    def found_schema(self) -> Schema | None:
        """Of the window that a former process left."""
        return None if self._found is None else self._found.schema

    @property
    def survives(self) -> bool:
        """Whether what is in the window outlives this process."""
        return self._file is not None

    def window(self, schema: Schema) -> SendWindow:
        """The window, found or new.

        Raises:
            ProducerError: rows in the window that was found are of another schema.
            OperatorError: no room for the files.
        """
        if self._file is None:
            return SendWindow(schema, self._window_bytes)
        if self._found is not None:
            difference = self._found.schema.difference(schema)
            if not difference:
                return self._found
            if self.recovered_rows:
                raise ProducerError(
                    f"the window that a former process left has another schema: {difference}",
                    consequence=f"{self.recovered_rows} rows of it are not delivered yet",
                    remedy="start the producer once without new data and close it, or use another "
                    "window_directory",
                )
            self.epoch = max(time.time_ns(), self.epoch + 1)
        return self._file.create(schema, self.epoch, self._window_bytes)

    def close(self, *, remove: bool) -> None:
        """Let go of the files; `remove` them when nothing is left in them."""
        if self._file is not None:
            self._file.close(remove=remove)
