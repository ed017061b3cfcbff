"""The sections of what learns: model, objective, optimizer, schedule, and the step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from insitu.config.setting import COMPONENT_NAME, Options, Section, setting
from insitu.config.stream import FieldName


class ModelSection(Section):
    """What learns."""

    name: Annotated[str, setting(COMPONENT_NAME, min_length=1)]
    options: Options = Field(default_factory=dict)


class ObjectiveSection(Section):
    """What is learned: the loss, and which fields it reads."""

    name: Annotated[str, setting(COMPONENT_NAME, min_length=1)]
    options: Options = Field(default_factory=dict)


class OptimizerSection(Section):
    """How weights change."""

    name: Annotated[str, setting("A class of torch.optim.", min_length=1)] = "AdamW"
    options: Annotated[dict[str, Any], setting("Its keyword arguments.")] = Field(
        default_factory=dict
    )


class ScheduleSection(Section):
    """How the learning rate changes, step by step."""

    name: Annotated[str | None, setting("A class of torch.optim.lr_scheduler; null for none.")] = (
        None
    )
    options: Annotated[dict[str, Any], setting("Its keyword arguments, counted in steps.")] = Field(
        default_factory=dict
    )
    warmup_steps: Annotated[
        int, setting("Steps of linear warm-up before the schedule.", unit="steps", ge=0)
    ] = 0
    repeat: Annotated[
        bool, setting("Begin anew at the end of a schedule of limited length (OneCycleLR).")
    ] = False


class NormaliseSection(Section):
    """How one field is scaled before the model sees it; `x: running` is short for its kind."""

    kind: Annotated[
        Literal["running", "none"],
        setting("By the mean and deviation of all samples so far (running), or not at all."),
    ] = "running"
    axes: Annotated[
        Literal["channel", "whole", "element"] | None,
        setting(
            "What shares a mean: each channel (first axis), the whole field, or each element "
            "alone; null: element for up to 1 axis, whole for 2, channel for more."
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _from_its_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class TrainerSection(Section):
    """The training step."""

    batch_size: Annotated[
        int,
        setting("Samples from the stream in a step; replay adds its own.", unit="samples", ge=1),
    ] = 32
    updates_per_batch: Annotated[
        int,
        setting(
            "Updates on every batch, each with remembered samples drawn anew; more learn more from "
            "a stream that is slower than the trainer.",
            unit="updates",
            ge=1,
        ),
    ] = 1
    device: Annotated[
        str,
        setting(
            "Where the model lives: auto (the first GPU, else the CPU), cpu, mps, cuda or cuda:N.",
            pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        ),
    ] = "auto"
    precision: Annotated[
        Literal["float32", "bfloat16"], setting("Of the forward pass; weights stay float32.")
    ] = "float32"
    compile: Annotated[bool, setting("Compile the model with torch.compile.")] = False
    cuda_graphs: Annotated[
        bool,
        setting(
            "Run what the blocks of model hebbian do in a step as CUDA graphs; refused without a "
            "GPU, with compile, and beside kernel_plasticity and winner_divergence."
        ),
    ] = False
    gradient_clip_norm: Annotated[
        float | None, setting("Largest L2 norm of all gradients; null for no limit.", gt=0)
    ] = None
    normalise: Annotated[
        dict[FieldName, NormaliseSection],
        setting("How real-valued fields are scaled, by name; those not named are not."),
    ] = Field(default_factory=dict)
    normalise_freeze_samples: Annotated[
        int | None,
        setting("Statistics stand still after so many samples; null: never.", unit="samples", ge=1),
    ] = None
    normalise_clip_deviations: Annotated[
        float | None,
        setting(
            "Normalised values are cut off at plus and minus this; null: never.",
            unit="standard deviations",
            gt=0,
        ),
    ] = None
    non_finite: Annotated[
        Literal["skip", "rollback", "stop"],
        setting(
            "After a loss or gradient that is not finite: leave out the update (skip), go back "
            "to the last good checkpoint (rollback), or end with exit code 5 (stop)."
        ),
    ] = "skip"
    most_skipped_steps: Annotated[
        int,
        setting(
            "So many skipped in a row mean that the weights have diverged: the service goes back "
            "to the last good checkpoint, or ends with exit code 5 where there is none.",
            unit="steps",
            ge=1,
        ),
    ] = 100
    seed: Annotated[int, setting("Where every random number starts.", ge=0, lt=1 << 63)] = 0
    threads: Annotated[
        int | None,
        setting("CPU threads of torch; null leaves them to torch.", unit="threads", ge=1),
    ] = None
