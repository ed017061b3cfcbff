"""How long the ingest thread listens before it acknowledges: a real socket, and a clock of ours."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
import zmq

from bad_input import SCHEMA, config
from daemon import wait_for
from insitu.config import load_config
from insitu.stream.inlet import Inlet
from insitu_service.compose import compose_ingest
from insitu_service.ingest.door import Door
from insitu_service.ingest.ingest import Ingest
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.session import Sessions
from insitu_service.learning.building import build_buffer
from insitu_service.learning.probe_inbox import ProbeInbox

WAITING = 100


class SteppingClock:
    """Goes on by so much with every look at it."""

    def __init__(self, step_seconds: float) -> None:
        self.now, self.step_seconds = 0.0, step_seconds

    def __call__(self) -> float:
        self.now += self.step_seconds
        return self.now


def taken_by_turns(directory: Path, clock: SteppingClock) -> list[int]:
    """Messages that each turn takes in, until all are; none of them is worth anything."""
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(config(directory)))
    settings = load_config(path, (), {})
    context: zmq.Context[Any] = zmq.Context()
    intake = Intake()
    inlet = Inlet(build_buffer(settings, torch.device("cpu")), ProbeInbox().take)
    running = compose_ingest(settings, context, inlet, Sessions(), Door(SCHEMA, {}), intake)
    running._clock = clock
    taken = [0]

    def turn() -> bool:
        running._take_turn({running._router: zmq.POLLIN})
        refused = intake.refused_messages
        taken.append(refused["malformed"] + refused["flood"])
        return taken[-1] == WAITING

    try:
        with context.socket(zmq.DEALER) as dealer:
            _flood(dealer, running)
            wait_for(turn, "all messages to be taken in")
    finally:
        running.stop()
        running.run()  # which closes all that it has
        context.destroy(linger=0)
    return [now - before for before, now in pairwise(taken)]


def _flood(dealer: zmq.Socket[bytes], running: Ingest) -> None:
    """Let many messages in, and wait until the first have come."""
    dealer.connect(running.endpoints[0])
    for _ in range(WAITING):
        dealer.send(b"\xc1")

    def come() -> bool:
        if running._gatekeeper.socket.poll(0):
            running._gatekeeper.answer()
        return bool(running._router.poll(0))

    wait_for(come, "the messages")


@pytest.mark.parametrize(("step_seconds", "most"), [(0.0004, 3), (0.002, 1)])
def test_a_turn_ends_after_a_millisecond_though_more_is_there(
    tmp_path: Path, step_seconds: float, most: int
) -> None:
    assert max(taken_by_turns(tmp_path, SteppingClock(step_seconds))) == most


def test_without_time_that_passes_a_turn_takes_what_is_there(tmp_path: Path) -> None:
    assert max(taken_by_turns(tmp_path, SteppingClock(0.0))) > 3
