"""The sections of what is measured and kept: evaluation, and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from insitu.config.setting import OptionalPath, Section, setting

ProbePath = Annotated[Path, Field(strict=False)]
TaskName = Annotated[str, Field(min_length=1, max_length=256)]


class EvaluationSection(Section):
    """Measuring on held-out samples, which producers mark with `evaluate=True` or files hold."""

    probe_samples_per_task: Annotated[
        int, setting("Held-out samples kept of each task.", unit="samples", ge=0)
    ] = 512
    every_steps: Annotated[
        int | None,
        setting(
            "Measure every so many steps too, besides at the end of a task.", unit="steps", ge=1
        ),
    ] = None
    probe_files: Annotated[
        dict[TaskName, ProbePath],
        setting(
            "Held-out samples from files, by task: .npz archives of one array a field, one row a "
            "sample."
        ),
    ] = Field(default_factory=dict)
    window_steps: Annotated[
        int,
        setting("Steps of the window of the prequential figures.", unit="steps", ge=1, le=10_000),
    ] = 100
    score_every_steps: Annotated[
        int,
        setting(
            "The prequential score is taken of every so many steps; the loss of all.",
            unit="steps",
            ge=1,
        ),
    ] = 4


class CheckpointSection(Section):
    """When and where the whole state is saved."""

    directory: Annotated[
        OptionalPath, setting("Where; made when missing. null for no checkpoints.")
    ] = None
    every_seconds: Annotated[
        float | None, setting("Time between two; null for none by time.", unit="seconds", gt=0)
    ] = 300.0
    every_steps: Annotated[
        int | None, setting("Steps between two; null for none by steps.", unit="steps", ge=1)
    ] = None
    keep: Annotated[int, setting("How many of the newest are kept.", unit="checkpoints", ge=1)] = 3
    on_stop: Annotated[bool, setting("Save one when the service stops.")] = True
