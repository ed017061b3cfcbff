"""The sections of continual learning: strategies, their memories, detectors of drift."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.config.setting import COMPONENT_NAME, OptionalPath, Options, Section, refuse, setting


class MemorySection(Section):
    """The episodic memory of a strategy that replays."""

    name: Annotated[str, setting(COMPONENT_NAME, min_length=1)] = "reservoir"
    capacity_samples: Annotated[
        int, setting("Samples that it remembers, allocated at start.", unit="samples", ge=1)
    ]
    placement: Annotated[
        Literal["device", "host", "disk"],
        setting(
            "Where samples lie: beside the model, in (pinned) memory of the host, or in a file "
            "that is mapped into memory and may be larger than it."
        ),
    ] = "device"
    directory: Annotated[
        OptionalPath, setting("Of that file, for placement disk; checkpoints need it beside them.")
    ] = None
    options: Options = Field(default_factory=dict)

    @model_validator(mode="after")
    def _directory_of_disk(self) -> Self:
        if (self.placement == "disk") != (self.directory is not None):
            raise refuse(
                "memory_directory",
                "placement disk needs a directory, and no other placement takes one; this is "
                "placement {placement} with directory {directory}",
                placement=self.placement,
                directory=str(self.directory),
            )
        return self


class StrategySection(Section):
    """A continual-learning method; several work in the order given."""

    name: Annotated[str, setting(COMPONENT_NAME, min_length=1)]
    options: Options = Field(default_factory=dict)
    memory: Annotated[
        MemorySection | None, setting("What it replays from; only for strategies that ask for it.")
    ] = None


class DetectionSection(Section):
    """A detector of drift; where any of them fires, the tasks in progress end."""

    name: Annotated[str, setting(COMPONENT_NAME, min_length=1)]
    options: Options = Field(default_factory=dict)
    cooldown_steps: Annotated[
        int,
        setting(
            "Steps after the start and after each boundary in which it is not listened to.",
            unit="steps",
            ge=0,
        ),
    ] = 50
