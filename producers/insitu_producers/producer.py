"""`Producer`: push arrays from a simulation, a camera or a file to the service, and go on."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from insitu.errors import InsituError, ProducerError
from insitu.schema import Schema
from insitu.wire.failover import Failover, service_index, service_name
from insitu.wire.session import Identity, ProducerSession
from insitu.wire.surviving import SurvivingWindow
from insitu.wire.values import CURSOR, TASK, Cursor
from insitu.wire.when_full import when_full as policy_named
from insitu_producers.columns import (
    SchemaLike,
    as_columns,
    as_sample_ids,
    as_schema,
    inferred,
)
from insitu_producers.connection import Connection
from insitu_producers.credentials import Credentials
from insitu_producers.forks import Forks
from insitu_producers.host import boot_id, host_id
from insitu_producers.line import LEVELS, Line, WaitTimeoutError
from insitu_producers.pusher import Pusher
from insitu_producers.resumption import Resumption
from insitu_producers.stats import ProducerStats, read_stats
from insitu_producers.window_keeper import WindowKeeper

#: a service is given so long at least to answer at all
LEAST_FAILOVER_SECONDS = 0.1
EVALUATE = 1  # insitu.batch.SampleFlag, which this client cannot import: it has torch
NO_REPLAY = 2


class Producer:
    """A connection to one stream of a service, used like a file.

    `push` copies what it is given, so the caller may reuse its arrays at once. A thread sends,
    reconnects, and sends again what was not acknowledged; while the service is absent pushes
    collect in a window of memory, and when that is full `when_full` decides:

    - `block`: wait for room, at most `block_timeout_seconds` counted from when the window got
      full, then drop the push (reason `timeout`). A service that stays away thus holds the
      simulation up once, not at every push; pushes that fit again go through as before.
    - `drop_newest`: drop the push. - `drop_oldest`: drop the oldest that was never sent.
    - `thin`: keep every k-th push; k doubles while the pressure lasts and halves after it.

    Everything that is dropped is counted in `stats()` and told to the service.

    Args:
        endpoint: such as `tcp://127.0.0.1:5555`; or several, each of a service of its own: the
            next one is used when the present one is gone, refuses us or drains. Always in the
            same order. What that does to exactness is in docs/producers.md.
        stream: name of the stream at the service.
        producer_id: name of this producer, unique in the stream. A second producer with the
            same name takes over, and the first one's next push raises.
        schema: of the samples, a `Schema` or {name: (dtype, shape without rows)}; without it the
            first push says, and the connection is made then.
        when_full: see above.
        block_timeout_seconds: see above; None waits for ever.
        window_bytes: memory for rows that are not acknowledged yet.
        linger_seconds: how long `close` waits for the last acknowledgements.
        token: what the service asks for, if it does; else of the environment.
        server_key: public key of a service that encrypts its stream; else of the environment.
        secret_key_file: file with our secret key, for such a service; else of the environment,
            see `insitu_producers.credentials`.
        epoch: number of this run of the producer, rising from run to run; by default the clock.
        failover_seconds: how long the present one of several services may be gone.
        window_directory: where the window lives in files, on a disk or in /dev/shm, so that it
            survives this process: a producer of the same stream, id and directory sends again
            what was pushed and not taken, each row once. It is preallocated. Not for shared file
            systems without locks; a loss of power is not survived. See docs/producers.md.
        resumes: what is pushed goes on right behind `last_cursor`, row for row as in the run
            before, if there was one. Rows of it that the service has already (the first part of a
            push, say) are left out, so each enters once. Push after `wait_connected` then.

    Example:
        >>> import numpy as np
        >>> with Producer("tcp://127.0.0.1:9", stream="plasma", producer_id="rank-0",
        ...               linger_seconds=0) as producer:
        ...     producer.push({"x": np.zeros((8, 3), np.float32)}, task="warmup", cursor=1)
        ...     producer.stats().pending_rows
        True
        8
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        stream: str,
        producer_id: str,
        schema: SchemaLike | None = None,
        when_full: str = "block",
        block_timeout_seconds: float | None = 30.0,
        window_bytes: int = 64 << 20,
        linger_seconds: float = 10.0,
        token: str = "",
        server_key: str = "",
        secret_key_file: str | os.PathLike[str] | None = None,
        epoch: int | None = None,
        failover_seconds: float = 10.0,
        window_directory: str | os.PathLike[str] | None = None,
        resumes: bool = False,
    ) -> None:
        for what, text in (("stream", stream), ("producer_id", producer_id)):
            if not text or not TASK.accepts(text):
                raise ProducerError(f"{what} is {text!r}", allowed="text of 1 to 128 characters")
        self._credentials = Credentials.of(
            os.environ,
            token=token,
            server_key=server_key,
            secret_key_file=None if secret_key_file is None else os.fspath(secret_key_file),
        )
        shown = self._credentials.token
        self._identity = Identity(producer_id, 0, stream, host_id(), boot_id(), shown)
        self._endpoints = [endpoint] if isinstance(endpoint, str) else [*endpoint]
        if not self._endpoints:
            raise ProducerError("endpoint is an empty list", allowed="one address or more")
        if not failover_seconds >= LEAST_FAILOVER_SECONDS:
            raise ProducerError(
                f"failover_seconds is {failover_seconds}",
                allowed=f"{LEAST_FAILOVER_SECONDS} or more",
            )
        self._failover_seconds = failover_seconds
        self._policy = policy_named(when_full)
        self._block_timeout_seconds = block_timeout_seconds
        self._window_bytes = window_bytes
        self._linger_seconds = linger_seconds
        self._forks = Forks.count
        self._push_lock = threading.Lock()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._line: Line | None = None
        self._pusher: Pusher | None = None
        self._resumes = resumes
        self._resumption = None if resumes else Resumption(0)
        directory = None if window_directory is None else Path(window_directory)
        self._keeper = WindowKeeper(directory, stream, producer_id, window_bytes, epoch)
        try:
            given = self._keeper.found_schema if schema is None else as_schema(schema)
            if given is None and resumes:
                raise ProducerError(
                    "a producer that resumes has no schema",
                    remedy="give Producer(schema=...), so that it connects before the first push",
                )
            if given is not None:
                self._start(given)
        except BaseException:
            self._keeper.close(remove=False)
            raise

    # -- pushing -----------------------------------------------------------------------------

    def push(
        self,
        arrays: Mapping[str, Any],
        *,
        task: str = "",
        cursor: Cursor = None,
        sample_ids: Any = None,
        evaluate: bool = False,
        replay: bool = True,
    ) -> bool:
        """Hand over some samples; their first axis is rows.

        Args:
            arrays: field name -> numpy array, torch tensor, or anything alike (see `arrays`).
            task: name of the task or regime that these samples belong to.
            cursor: your own place in the run, such as the step: a whole number, float or text.
                The service keeps the newest, and `last_cursor` returns it after a restart.
            sample_ids: one int64 a row, by which the service names the samples.
            evaluate: these samples are a held-out probe: measured, never trained.
            replay: whether the service may remember them.

        Returns:
            True when all rows were taken, False when some were dropped (see `stats`).

        Raises:
            ProducerError: the arrays do not fit, or the service refuses this producer.
        """
        return self._push(
            arrays, False, task, cursor, sample_ids, _flags(evaluate=evaluate, replay=replay)
        )

    def push_one(
        self,
        arrays: Mapping[str, Any],
        *,
        task: str = "",
        cursor: Cursor = None,
        sample_id: int | None = None,
        evaluate: bool = False,
        replay: bool = True,
    ) -> bool:
        """Push a single sample, whose arrays have no axis of rows; otherwise as `push`."""
        ids = None if sample_id is None else [sample_id]
        return self._push(arrays, True, task, cursor, ids, _flags(evaluate=evaluate, replay=replay))

    def _push(
        self,
        arrays: Mapping[str, Any],
        single: bool,
        task: str,
        cursor: Cursor,
        sample_ids: Any,
        flags: int,
    ) -> bool:
        with self._push_lock:
            self._check_usable()
            if not TASK.accepts(task):
                raise ProducerError(f"task is {task!r}", allowed=TASK.allowed)
            if not CURSOR.accepts(cursor):
                raise ProducerError(f"cursor is {cursor!r}", allowed=CURSOR.allowed)
            line = self._line or self._start(inferred(arrays, single=single))
            rows, columns = as_columns(line.window.schema, arrays, single=single)
            ids = None if sample_ids is None else as_sample_ids(sample_ids, rows)
            resumption = self._resumption or self._resume(line)
            if not resumption.is_over:
                columns, rows, ids = resumption.leave_out(columns, rows, ids)
                if not rows:
                    return True
            assert self._pusher is not None
            return self._pusher.push(columns, rows, task, flags, cursor, ids)

    def _resume(self, line: Line) -> Resumption:
        """How much of what is pushed first is at the service, or in the window."""
        keeper = self._keeper
        self._resumption = Resumption.of(
            line.session, keeper.recovered_cursor, keeper.recovered_rows_behind_cursor
        )
        return self._resumption

    # -- connecting, waiting, ending -----------------------------------------------------------

    def _start(self, schema: Schema) -> Line:
        if 2 * schema.row_bytes > self._window_bytes:
            raise ProducerError(
                f"window_bytes is {self._window_bytes}, one sample has {schema.row_bytes}",
                allowed=f"{2 * schema.row_bytes} or more",
            )
        window = self._keeper.window(schema)
        place = service_index(window.service) if isinstance(window, SurvivingWindow) else 0
        failover = Failover(len(self._endpoints), self._failover_seconds, place)
        window.use_service(service_name(failover.index))
        identity = replace(self._identity, epoch=self._keeper.epoch)
        session = ProducerSession(window, identity, failover, resumes=self._resumes)
        connection = Connection(self._endpoints, session, self._changed, self._credentials)
        self._line = line = Line(window, session, connection, self._changed, self._lock)
        self._pusher = Pusher(line, self._policy, self._block_timeout_seconds, self._check_usable)
        return line

    def _check_usable(self) -> None:
        if self._closed:
            raise ProducerError("the producer is closed", remedy="make a new Producer")
        if Forks.count != self._forks:
            raise ProducerError(
                "the producer was made before a fork and is used after it",
                consequence="its thread and its socket did not come along",
                remedy="start processes with the method 'spawn', or make the Producer afterwards",
            )
        if self._line is not None:
            self._line.check()

    def wait_connected(self, timeout: float) -> None:
        """Wait until the service has answered, so that `last_cursor` is known.

        Raises:
            WaitTimeoutError: it did not within `timeout` seconds.
            ProducerError: it refuses this producer, or the schema is not known yet.
        """
        if self._line is None:
            raise ProducerError(
                "wait_connected before the schema is known",
                remedy="give Producer(schema=...), or push first",
            )
        self._wait(self._line.is_open, timeout, f"no service at {self._line.connection.endpoint}")

    def flush(self, timeout_seconds: float = 30.0, *, level: str = "accepted") -> None:
        """Wait until all rows pushed before are accepted, durable or trained.

        Rows that were quarantined or dropped are not waited for. `durable` comes only from a
        service with a stream log, `trained` when the trainer gets there: a service that waits
        for full batches trains the last few rows when the stream goes on, or ends.

        Args:
            timeout_seconds: to wait at most.
            level: `accepted`: the service has taken them, by its ack level. `durable`: they are
                on its disk. `trained`: they have gone into the weights, or its policy has given
                them up.

        Raises:
            WaitTimeoutError: rows were not so far after `timeout_seconds`; they stay pushed.
            ProducerError: the service refuses this producer, or there is no such level.
        """
        if level not in LEVELS:
            raise ProducerError(f"level is {level!r}", allowed=", ".join(LEVELS))
        line = self._line
        if line is None:
            return
        with self._lock:
            row = line.window.last_row
        if level == "accepted":
            self._wait(lambda: line.reached(level, row), timeout_seconds, "flush")
        else:
            self._wait_asking(lambda: line.reached(level, row), timeout_seconds, f"flush {level}")

    def _wait_asking(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for what the service tells when it is asked."""
        assert self._line is not None
        session, connection = self._line.session, self._line.connection
        with self._lock:
            session.waiting += 1
        connection.wake()
        try:
            self._wait(condition, seconds, what)
        finally:
            with self._lock:
                session.waiting -= 1

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                self._check_usable()
                left = deadline - time.monotonic()
                if left <= 0:
                    assert self._line is not None
                    line = self._line
                    raise WaitTimeoutError(
                        f"{what}{line.reason()}: not within {timeout} s, {line.standing()}",
                        consequence="they stay in the window and are sent when the service takes "
                        "them",
                    )
                self._changed.wait(left)

    @property
    def last_cursor(self) -> Cursor:
        """The newest cursor that the service had of this producer id when we first connected.

        So a simulation that was started again knows where to go on: all rows up to this cursor
        are at the service, or in a window that survived and are sent from there. Of the push
        behind it a part may be there too, see `resumes`. Known after `wait_connected`; None if
        there is none.
        """
        if self._keeper.recovered_cursor is not None:
            return self._keeper.recovered_cursor
        return self._line.session.last_cursor if self._line is not None else None

    def stats(self) -> ProducerStats:
        """What was pushed, sent, acknowledged and dropped so far."""
        if self._line is None:
            return ProducerStats()
        with self._changed:
            return read_stats(
                self._line.session,
                garbage_messages=self._line.connection.garbage_messages,
                recovered_rows=self._keeper.recovered_rows,
                left_out_rows=self._resumption.left_out_rows if self._resumption else 0,
                last_cursor=self.last_cursor,
            )

    def close(self) -> None:
        """Wait up to `linger_seconds` for acknowledgements, say BYE, and end. Never raises.

        What is not acknowledged then is dropped; in a `window_directory` it waits for the next
        producer with this id, and as the stream goes on there is no BYE.
        """
        if self._closed:
            return
        line = self._line
        if line is not None and Forks.count == self._forks:
            deadline = time.monotonic() + self._linger_seconds
            with contextlib.suppress(InsituError):
                self._wait_asking(line.is_clear, self._linger_seconds, "close")
            self._closed = True
            if self._keeper.survives and not line.is_clear():
                line.leave()
                self._keeper.close(remove=False)
            else:
                line.end(deadline)
                self._keeper.close(remove=True)
        elif line is None:
            self._keeper.close(remove=True)
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _flags(*, evaluate: bool, replay: bool) -> int:
    return (EVALUATE if evaluate else 0) | (0 if replay else NO_REPLAY)
