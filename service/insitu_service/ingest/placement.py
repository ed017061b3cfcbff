"""Where the rows of a producer's run count from, written down before anybody is told of it.

A run that resumes leaves out the rows that it is told are here. So what it is told must be as safe
as what is acknowledged, or rows would be nobody's after a crash.
"""

from __future__ import annotations

from insitu.stream.inlet import Inlet
from insitu.stream.stamp import Stamp
from insitu.wire.messages import AckLevel, Hello
from insitu.wire.receiver import Receiver
from insitu_service.ingest.greeting import began_elsewhere


class Placement:
    """Notes of the places of runs, in the stream.

    Args:
        ack_level: what is promised to producers.
    """

    def __init__(self, inlet: Inlet, ack_level: AckLevel) -> None:
        self._inlet = inlet
        self._ack_level = ack_level

    def place(self, hello: Hello) -> bool:
        """Note where a run began that is new here, if it was not at our newest cursor.

        Its rows count from there; the next run would begin at a place of its own else, and bring
        rows twice or leave rows out that nobody has. False when it could not be written.
        """
        position = self._inlet.position(hello.producer_id)
        began = began_elsewhere(hello, position)
        if began is None or (position is not None and position.epoch > hello.epoch):
            return True
        return self._inlet.skip(Stamp(hello.producer_id, hello.epoch, 0, began.cursor, 0), 0)

    def note(self, hello: Hello, receiver: Receiver) -> bool:
        """Note its place: what is lost is counted once, and the fence stands from now on."""
        place = receiver.accepted, None, receiver.next_row
        return self._inlet.skip(Stamp(hello.producer_id, hello.epoch, *place), 0)

    def is_safe(self, hello: Hello) -> bool:
        """Whether it is written as safely as we promise where this run begins."""
        return self._ack_level != AckLevel.DURABLE or self._inlet.is_synced(hello.producer_id)
