"""What lets every row in exactly once, taken out: the simulation must notice each of these."""

from __future__ import annotations

from typing import Any

from insitu.stream.logged_inlet import LoggedInlet
from insitu.stream.stamp import Position, Stamp
from insitu.wire.messages import Ack, Data, Hello, Welcome
from insitu.wire.receiver import Action, Receiver
from insitu.wire.sender import SendWindow
from insitu.wire.session import ProducerSession
from insitu_service.ingest.greeting import Terms
from mutations.base import Mutation, constantly

_SIMULATION = "tests/test_simulation.py"

_receive = Receiver.receive
_acknowledge = SendWindow.acknowledge
_open = SendWindow.open
_fall_behind = LoggedInlet._fall_behind
_receiver = Terms.receiver
_position = Stamp.position
_additions = ProducerSession._additions


def _takes_the_last_batch_again(self: Receiver, data: Data) -> Action:
    if data.session == self.session and data.fragment == 0 and data.seq == self.next_seq - 1:
        self.next_seq, self.next_row = data.seq, data.first_row
    return _receive(self, data)


def _goes_on_only_with_more_credit(self: SendWindow, ack: Ack) -> int:
    held = self.holding and ack.credit_bytes <= self.credit_bytes
    released = _acknowledge(self, ack)
    self.holding = held
    return released


def _counts_credit_from_the_first_session(self: SendWindow, welcome: Welcome) -> None:
    used = self._position_bytes
    _open(self, welcome)
    self._position_bytes = used


def _feeds_one_record_twice(self: LoggedInlet, record: int) -> None:
    _fall_behind(self, max(0, record - 1))


def _says_durable_of_what_is_written(self: LoggedInlet, producer_id: str, epoch: int) -> int:
    position = self.position(producer_id)
    return position.seq if position is not None and position.epoch == epoch else 0


def _lets_an_older_life_in(self: Terms, hello: Hello, session: int, place: Any) -> Any:
    if isinstance(place, Position) and place.epoch > hello.epoch:
        place = None
    return _receiver(self, hello, session, place)


def _begins_every_run_at_row_0(self: Terms, hello: Hello, session: int, place: Any) -> Any:
    if isinstance(place, Position):
        place = place._replace(rows_behind_cursor=0)
    return _receiver(self, hello, session, place)


def _counts_the_last_batch_alone(self: Stamp, rows: int, before: Position | None = None) -> Any:
    after = _position(self, rows, before)
    behind = 0 if self.cursor is not None else rows if self.seq else after.rows_behind_cursor
    return after._replace(rows_behind_cursor=behind)


def _never_says_where_it_began(self: ProducerSession) -> tuple[str, ...]:
    return tuple(each for each in _additions(self) if not each.startswith("began:"))


MUTATIONS = {
    "dedupe: the last batch is taken again": Mutation(
        "insitu.wire.receiver:Receiver.receive", _takes_the_last_batch_again, _SIMULATION
    ),
    "credit: after FULL only more of it counts": Mutation(
        "insitu.wire.sender:SendWindow.acknowledge", _goes_on_only_with_more_credit, _SIMULATION
    ),
    "credit: a new session begins where the last one ended": Mutation(
        "insitu.wire.sender:SendWindow.open", _counts_credit_from_the_first_session, _SIMULATION
    ),
    "recovery: the checkpoint's last record is fed again": Mutation(
        "insitu.stream.logged_inlet:LoggedInlet._fall_behind", _feeds_one_record_twice, _SIMULATION
    ),
    "recovery: what is written counts as durable": Mutation(
        "insitu.stream.logged_inlet:LoggedInlet.durable",
        _says_durable_of_what_is_written,
        _SIMULATION,
    ),
    "recovery: what is lost is not noted": Mutation(
        "insitu_service.ingest.lobby:Lobby._lost", constantly(None), _SIMULATION
    ),
    "fencing: an older life comes in when the newer one is away": Mutation(
        "insitu_service.ingest.greeting:Terms.receiver", _lets_an_older_life_in, _SIMULATION
    ),
    "resume: the service begins every run at row 0": Mutation(
        "insitu_service.ingest.greeting:Terms.receiver", _begins_every_run_at_row_0, _SIMULATION
    ),
    "resume: of what is behind the cursor the last batch alone counts": Mutation(
        "insitu.stream.stamp:Stamp.position", _counts_the_last_batch_alone, _SIMULATION
    ),
    "resume: where a run began is not told": Mutation(
        "insitu.wire.session:ProducerSession._additions", _never_says_where_it_began, _SIMULATION
    ),
    "resume: a place is told before it is as safe as was promised": Mutation(
        "insitu_service.ingest.placement:Placement.is_safe", constantly(True), _SIMULATION
    ),
    "resume: the client leaves nothing out": Mutation(
        "insitu_producers.resumption:Resumption.leave_out",
        lambda self, columns, rows, sample_ids: (columns, rows, sample_ids),
        _SIMULATION,
    ),
    "fencing: a newer life keeps others out only once it has sent": Mutation(
        "insitu_service.ingest.placement:Placement.note", constantly(None), _SIMULATION
    ),
}
