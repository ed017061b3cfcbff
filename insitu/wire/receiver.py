"""The service's side of a stream as a state machine: which fragments to store, in which order.

One `Receiver` serves one (producer, epoch) during one session. It says what to do with each
DATA message and holds no data: whoever owns the socket and the buffer does it.

    match receiver.receive(data):
        case Write(begin=begin, complete=complete): ...   # reserve if begin, write, commit
        case Rejected(nack): ...                          # settled: abandon, count, send the NACK
        case GoBack(nack): ...                            # send the NACK, abandon what is open
        case Ignored() | Duplicate(): ...

Exactly once: only the next fragment of the next batch is ever written. Everything older is a
duplicate and is answered by the next ack; a gap is reported once, and then everything is ignored
until the missing batch begins. Duplicates are told by their number before their checksum is
looked at, because a producer may reuse the memory of a batch that is acknowledged.

No I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from insitu.wire.began import Began
from insitu.wire.capabilities import RESUMES
from insitu.wire.checksum import checksum
from insitu.wire.messages import RESEND_CODES, Ack, Bye, Data, Hello, Nack, NackCode
from insitu.wire.values import MOST_COUNT


@dataclass(frozen=True, slots=True)
class Write:
    """Store the payload at `data.offset` of the batch.

    Args:
        data: the message.
        begin: it is the batch's first fragment: reserve `data.rows` rows, after abandoning any
            reservation that is still open.
        complete: it is the last one: commit, then call `settled`.
        gap_rows: rows between the previous batch and this one, which the producer dropped.
    """

    data: Data
    begin: bool
    complete: bool
    gap_rows: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A batch that is settled already: acknowledge again."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing to do: the missing batch has been asked for, or the session is another one."""


@dataclass(frozen=True, slots=True)
class GoBack:
    """Send this NACK, and abandon the open reservation if there is one."""

    nack: Nack


@dataclass(frozen=True, slots=True)
class Rejected:
    """The batch is settled without being taken.

    Send this NACK, abandon the open reservation if there is one, count `rows` as quarantined.
    """

    nack: Nack
    rows: int
    gap_rows: int


Action = Write | Duplicate | Ignored | GoBack | Rejected

_DUPLICATE = Duplicate()
_IGNORED = Ignored()


class Receiver:
    """Exactly-once reception of one producer's batches.

    Args:
        session: number of the session, as in WELCOME.
        row_bytes: of the stream's schema.
        checksum_kind: as in WELCOME.
        max_batch_bytes, max_fragment_bytes: as in WELCOME; None for no limit.
        next_seq, next_row: the position to go on from, such as a restored one.
        counts_rows: whether the producer understands the row count of a NACK.
    """

    def __init__(
        self,
        session: int,
        row_bytes: int,
        checksum_kind: str,
        max_batch_bytes: int,
        *,
        max_fragment_bytes: int | None = None,
        next_seq: int = 1,
        next_row: int = 0,
        counts_rows: bool = False,
    ) -> None:
        self.session = session
        self._counts_rows = counts_rows
        self.next_seq = next_seq
        self.next_row = next_row
        self.lost_rows = 0
        self._row_bytes = row_bytes
        self._checksum_kind = checksum_kind
        self._max_batch_bytes = max_batch_bytes
        self._max_fragment_bytes = max_fragment_bytes
        self._open: Data | None = None
        self._next_fragment = 0
        self._next_offset = 0
        self._asked = False
        self._settled_bytes = 0
        self._settled_batches = 0
        self._credit_bytes = 0
        self._credit_batches = 0

    @property
    def accepted(self) -> int:
        """The newest settled batch; 0 for none."""
        return self.next_seq - 1

    @property
    def checksum_kind(self) -> str:
        return self._checksum_kind

    @property
    def outstanding_bytes(self) -> int:
        """Credit that was given and not used yet."""
        begun = self._open.payload_bytes if self._open is not None else 0
        return self._credit_bytes - self._settled_bytes - begun

    @property
    def unsettled_bytes(self) -> int:
        """Credit that was given and for which no batch was settled yet."""
        return self._credit_bytes - self._settled_bytes

    def resume(self, hello: Hello) -> int:
        """Go on where the producer can: how many rows are lost because it let go of them.

        That happens when this side came back from an older checkpoint than what it had
        acknowledged. Call it once, before WELCOME.
        """
        if hello.first_available_seq <= self.next_seq:
            new = self.next_seq == 1 and RESUMES not in hello.capabilities
            if new and Began.said_in(hello.capabilities) is None:
                # none of its rows is here, and another service has said where they begin
                self.next_row = min(self.next_row, hello.first_available_row)
            return 0
        self.lost_rows = max(0, hello.first_available_row - self.next_row)
        self.next_seq = hello.first_available_seq
        self.next_row = max(self.next_row, hello.first_available_row)
        return self.lost_rows

    def receive(self, data: Data) -> Action:
        """What to do with a DATA message; never raises, whatever is in it."""
        if data.session != self.session:
            return _IGNORED
        if data.seq < self.next_seq:
            return _DUPLICATE
        if data.fragment == 0 and data.seq == self.next_seq:
            return self._begin(data)
        first = self._open
        if first is None or data.seq != first.seq or data.fragment != self._next_fragment:
            return self._go_back(NackCode.GAP, f"batch {data.seq} fragment {data.fragment} came")
        if (
            data.rows != first.rows
            or data.payload_bytes != first.payload_bytes
            or data.fragments != first.fragments
            or data.offset != self._next_offset
        ):
            return self._refuse(data, NackCode.MALFORMED, "its fragments do not fit together")
        return self._write(data, begin=False)

    def _begin(self, data: Data) -> Action:
        self._asked = False
        self._open = None
        if data.payload_bytes > self._max_batch_bytes:
            return self._refuse(
                data, NackCode.TOO_BIG,
                f"{data.payload_bytes} bytes; allowed: up to {self._max_batch_bytes}",
            )  # fmt: skip
        if data.payload_bytes != data.rows * self._row_bytes:
            return self._refuse(
                data, NackCode.SCHEMA,
                f"{data.payload_bytes} bytes for {data.rows} rows of {self._row_bytes}",
            )  # fmt: skip
        if data.offset:
            return self._refuse(data, NackCode.MALFORMED, f"it begins at byte {data.offset}")
        if data.first_row < self.next_row:
            return self._refuse(
                data, NackCode.MALFORMED, f"first_row {data.first_row} is before {self.next_row}"
            )
        self._next_fragment = self._next_offset = 0
        return self._write(data, begin=True)

    def _write(self, data: Data, *, begin: bool) -> Action:
        size = len(data.payload)
        if self._max_fragment_bytes is not None and size > self._max_fragment_bytes:
            return self._refuse(
                data, NackCode.TOO_BIG,
                f"fragment {data.fragment} has {size} bytes; allowed: up to "
                f"{self._max_fragment_bytes}",
            )  # fmt: skip
        end = self._next_offset + size
        complete = data.fragment + 1 == data.fragments
        if complete != (end == data.payload_bytes):
            return self._refuse(data, NackCode.MALFORMED, "its fragments do not add up")
        if checksum(self._checksum_kind, data.payload) != data.checksum:
            return self._go_back(NackCode.CORRUPT, f"the {self._checksum_kind} of fragment "
                                 f"{data.fragment} is not {data.checksum}")  # fmt: skip
        if begin:
            self._open = data
        self._next_fragment += 1
        self._next_offset = end
        return Write(data, begin, complete, data.first_row - self.next_row if begin else 0)

    def xxh3(self, data: Data) -> int | None:
        """Of the payload of a message that is to be written, if that is how it was checked."""
        return data.checksum if self._checksum_kind == "xxh3" else None

    def settled(self) -> None:
        """The complete batch was committed (or refused, see `quarantine`): take the next one."""
        assert self._open is not None
        self._settle(self._open)

    def quarantine(self, code: NackCode, text: str, rows: int | None = None) -> Nack:
        """Settle the complete batch without taking it, or these many rows of it.

        Returns:
            What to send.
        """
        assert self._open is not None
        assert code not in RESEND_CODES
        nack = self._settling(self._open, code, text, self._open.rows if rows is None else rows)
        self._settle(self._open)
        return nack

    def _settling(self, data: Data, code: NackCode, text: str, rows: int) -> Nack:
        told = rows if self._counts_rows else None
        return Nack(self.session, data.seq, code, text, resend=False, rows=told)

    def no_room(self) -> Nack:
        """The batch cannot be stored now: send what this returns, and an ack once there is room."""
        self._open = None
        self._asked = True
        return Nack(self.session, self.next_seq, NackCode.FULL, "no room; wait for an ack", True)

    def _settle(self, data: Data) -> None:
        self._open = None
        self.next_seq = data.seq + 1
        self.next_row = max(self.next_row, data.first_row + data.rows)
        self._settled_bytes += data.payload_bytes
        self._settled_batches += 1

    def _refuse(self, data: Data, code: NackCode, text: str) -> Rejected:
        gap_rows = max(0, data.first_row - self.next_row) if self._open is None else 0
        self._settle(data)
        text = f"batch {data.seq} is not taken: {text}"
        return Rejected(self._settling(data, code, text, data.rows), data.rows, gap_rows)

    def _go_back(self, code: NackCode, text: str) -> Action:
        self._open = None
        if self._asked:
            return _IGNORED
        self._asked = True
        text = f"{text}; batch {self.next_seq} is awaited"
        return GoBack(Nack(self.session, self.next_seq, code, text, resend=True))

    def ended(self, bye: Bye) -> int:
        """Rows that the producer dropped after its last batch, by its own count."""
        return max(0, bye.pushed_rows - self.next_row)

    def ack(
        self,
        free_bytes: int,
        free_batches: int,
        *,
        durable: int = 0,
        trained: int = 0,
    ) -> Ack:
        """The cumulative ack, with room for `free_*` beyond everything that was begun.

        Credit that was given is never taken back.

        Args:
            free_bytes, free_batches: what this producer may send further; a batch that is begun
                but not complete has its room already.
            durable: newest batch that is on disk, with all before it: it survives a loss of
                power. 0 without a log.
            trained: newest batch of which, and of all before it, every sample was trained or
                given up by the policy.
        """
        begun = self._open.payload_bytes if self._open is not None else 0
        batches = self._settled_batches + (self._open is not None)
        self._credit_bytes = max(self._credit_bytes, self._settled_bytes + begun + free_bytes)
        self._credit_batches = max(self._credit_batches, batches + free_batches)
        newest = self.accepted
        return Ack(
            self.session, newest, min(durable, newest), min(trained, newest),
            min(self._credit_bytes, MOST_COUNT), self._credit_batches,
        )  # fmt: skip
