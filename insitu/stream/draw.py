"""One draw from the stream buffer: a training batch, and what ended before it."""

from __future__ import annotations

from dataclasses import dataclass

from insitu.batch import Batch
from insitu.stream.blocks import Block
from insitu.tasks import TaskVisit


@dataclass(frozen=True, eq=False)
class Draw:
    """What the learner gets.

    Args:
        batch: fresh rows, valid until the draw is released and three more were made; None when
            there is only news of tasks.
        ended_tasks: visits whose samples were all drawn before this batch: consolidate them
            first.
        waited_seconds: until enough had arrived.
        copy_seconds: gathering the rows.
        block: the memory that the batch lies in.
    """

    batch: Batch | None
    ended_tasks: tuple[TaskVisit, ...]
    waited_seconds: float
    copy_seconds: float
    block: Block | None
