"""The sections between stream and trainer: the ring, and how the two keep step."""

from __future__ import annotations

from typing import Annotated, Literal

from insitu.config.setting import Section, setting


class BufferSection(Section):
    """The ring between the stream and the trainer."""

    policy: Annotated[
        Literal["fifo", "firo", "reservoir"],
        setting(
            "Which samples come next: each once in order (fifo), each once at random (firo), "
            "or at random with repetition, forgetting seen ones (reservoir)."
        ),
    ] = "fifo"
    capacity_samples: Annotated[
        int, setting("Samples that the ring holds, allocated at start.", unit="samples", ge=1)
    ] = 4096
    watermark_samples: Annotated[
        int,
        setting("Fill before the first draw; for firo and reservoir.", unit="samples", ge=0),
    ] = 0
    when_full: Annotated[
        Literal["block", "drop_oldest", "drop_newest"],
        setting("What a full ring does: stop giving credit, or drop and count."),
    ] = "block"


class PaceSection(Section):
    """How training and stream keep step."""

    kind: Annotated[
        Literal["free", "fixed"],
        setting("`fixed` draws by the count of arrivals alone (reproducible); `free` as it can."),
    ] = "free"
    samples_per_insert: Annotated[
        float,
        setting(
            "Times that a sample is trained from the ring: exactly (fixed), at most (free).",
            unit="ratio",
            gt=0,
        ),
    ] = 1.0
    linger_seconds: Annotated[
        float,
        setting(
            "How long `free` waits to fill a batch; `fixed` waits for ever.", unit="seconds", ge=0
        ),
    ] = 1.0
