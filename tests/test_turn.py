"""A turn of the ingest thread, without a socket."""

from __future__ import annotations

import torch

from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import Inlet
from insitu.stream.pacing import FixedPace
from insitu.stream.policies import FIFO
from insitu.tasks import TaskLedger
from insitu_service.ingest.acknowledger import Acknowledger
from insitu_service.ingest.data_path import DataPath
from insitu_service.ingest.greeting import Terms
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.lobby import Lobby
from insitu_service.ingest.reception import Reception
from insitu_service.ingest.session import Sessions
from insitu_service.ingest.turn import IDLE_SECONDS, Turn
from simulation.samples import ROW_BYTES, SCHEMA, door


class Tended(Inlet):
    """Counts how often it is tended."""

    times = 0

    def tend(self) -> bool:
        self.times += 1
        return False


def turn_with(inlet: Inlet) -> Turn:
    sessions, intake = Sessions(), Intake()
    terms = Terms(SCHEMA, frozenset({"s"}), None, 10, 1 << 20, 1 << 20, "block")
    acknowledger = Acknowledger(
        sessions, inlet, lambda *_: None, row_bytes=ROW_BYTES, always_room=False
    )
    lobby = Lobby(
        sessions, inlet, terms, acknowledger, intake, lambda *_: None, timeout_seconds=10.0
    )
    data_path = DataPath(inlet, door(), acknowledger, intake, lambda *_: None, drops_newest=False)
    reception = Reception(sessions, lobby, data_path, acknowledger, intake, lambda *_: None)
    return Turn(reception, inlet, 0.0)


def inlet_of_a_small_ring() -> Tended:
    buffer = StreamBuffer(
        SCHEMA, 8, FIFO(8), FixedPace(), TaskLedger(), generator=torch.Generator().manual_seed(0)
    )
    return Tended(buffer, lambda *_: True)


def test_what_the_log_holds_is_let_in_by_the_first_turn() -> None:
    """A restarted service may wait long for its first message."""
    inlet = inlet_of_a_small_ring()
    turn = turn_with(inlet)
    assert turn.waits_seconds == 0.0
    turn.begin(0.0)
    turn.end(0.0, idle=True)
    assert (inlet.times, turn.waits_seconds) == (1, IDLE_SECONDS)


def test_the_log_is_tended_though_there_are_always_messages() -> None:
    """A disk that was full is asked again, however many producers say that they wait."""
    inlet = inlet_of_a_small_ring()
    turn = turn_with(inlet)
    for tenth in range(1, 51):
        turn.begin(tenth / 10)
        turn.end(tenth / 10, idle=False)
    assert 4 <= inlet.times <= 6


def test_no_life_of_a_service_gives_the_number_of_a_session_that_an_earlier_one_gave() -> None:
    """Or the DRAIN of a service that stopped would silence its producers at the next one."""
    lives = [Sessions() for _ in range(100)]
    numbers = {life.take_number() for life in lives for _ in range(50)}
    assert len(numbers) == 5000
