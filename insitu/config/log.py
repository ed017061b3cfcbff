"""The section of the stream log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from insitu.config.setting import Section, setting


class LogSection(Section):
    """Everything that is accepted, on disk before it is acknowledged (see the page on the log)."""

    directory: Annotated[
        Annotated[Path, Field(strict=False)] | None,
        setting("Where; made when missing, and for this service alone. null for no log."),
    ] = None
    ack_level: Annotated[
        Literal["auto", "received", "logged", "durable"],
        setting(
            "What an ack is worth: `received`, in memory; `logged`, written, survives the death of "
            "the service; `durable`, synced, survives power loss. `auto` is logged where there is "
            "a log, else received."
        ),
    ] = "auto"
    sync_seconds: Annotated[
        float,
        setting(
            "Below `durable`, what was written is synced this often: power loss costs no more.",
            unit="seconds",
            gt=0,
        ),
    ] = 1.0
    segment_bytes: Annotated[
        int,
        setting(
            "Size of a file of the log, whose room is reserved ahead; must hold the largest batch.",
            unit="bytes",
            ge=1 << 20,
            le=1 << 40,
        ),
    ] = 64 << 20
    spill_bytes: Annotated[
        int,
        setting(
            "How much may be accepted into the log while the stream buffer is full, so that a "
            "burst does not hold up a simulation; 0 for none.",
            unit="bytes",
            ge=0,
        ),
    ] = 0
    keep_bytes: Annotated[
        int,
        setting(
            "What no kept checkpoint needs is kept up to this size, to be replayed.",
            unit="bytes",
            ge=0,
        ),
    ] = 0
    keep_seconds: Annotated[
        float,
        setting(
            "What no kept checkpoint needs is kept for so long, to be replayed.",
            unit="seconds",
            ge=0,
        ),
    ] = 0.0
