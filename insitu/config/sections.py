"""The sections of the configuration file; every setting explained where it is declared.

A relative path is looked up from the working directory of the service, as in a shell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from insitu.config.setting import OptionalPath, Section, refuse, setting
from insitu.config.stream import FieldName

ProbePath = Annotated[Path, Field(strict=False)]
TaskName = Annotated[str, Field(min_length=1, max_length=256)]
Options = Annotated[
    dict[str, Any], setting("Its options; the tables of components list them with their ranges.")
]
COMPONENT_NAME = "One of ours by its name, or your own as package.module:factory."


class ServiceSection(Section):
    """Who this service is and how it talks to its log."""

    name: Annotated[
        str,
        setting(
            "Name of the service in its log, metrics and status.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        ),
    ] = "insitu"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], setting("The least severe lines to log.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "plain"],
        setting("Form of a log line on stderr; `auto` is plain on a terminal, else json."),
    ] = "auto"
    drain_on_stop: Annotated[
        bool,
        setting(
            "Whether a stop trains what is pending first. Else it stays in the checkpoint, and a "
            "resumed run with the fixed pace equals one that was never stopped, bit by bit."
        ),
    ] = True
    allow_root: Annotated[
        bool, setting("Leaves out the warning that the service runs as root, as in a container.")
    ] = False
    hang_seconds: Annotated[
        float,
        setting(
            "A worker that has not come by for so long hangs: the stacks of all threads go to "
            "stderr and the process ends with code 8, to be started again with --resume-if-any. "
            "Longer than the longest step, evaluation or compilation.",
            unit="seconds",
            ge=3,
        ),
    ] = 300.0
    drain_seconds: Annotated[
        float,
        setting(
            "How long a stop may train what is pending; the rest stays in the checkpoint.",
            unit="seconds",
            ge=0,
        ),
    ] = 60.0


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


class HookSection(Section):
    """Something to run when something happens; it watches and never changes learning."""

    on: Annotated[
        Literal["start", "step", "task_end", "evaluation", "checkpoint", "alert", "stop"],
        setting("The event; the table of hooks says when each comes and what it carries."),
    ]
    shell: Annotated[
        str | tuple[str, ...] | None,
        setting(
            "A command, as a line for the shell or a list of words; the event is JSON on stdin."
        ),
    ] = None
    python: Annotated[
        str | None,
        setting("A callable `f(event: dict)` as package.module:function.", pattern=r"^[\w.]+:\w+$"),
    ] = None
    post: Annotated[
        str | None, setting("A URL that gets the event as JSON.", pattern=r"^https?://\S+$")
    ] = None
    every: Annotated[int, setting("Run at each so many events only.", unit="events", ge=1)] = 1
    timeout_seconds: Annotated[
        float, setting("It is ended, or given up on, after this long.", unit="seconds", gt=0)
    ] = 10.0

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        given = [name for name in ("shell", "python", "post") if getattr(self, name)]
        if len(given) != 1:
            raise refuse(
                "hook_action",
                "a hook takes exactly one of shell, python and post; this has {given}",
                given=" and ".join(given) or "none",
            )
        return self


class HttpSection(Section):
    """Metrics, health, status and control over HTTP."""

    host: Annotated[
        str,
        setting(
            "Address to bind; other than loopback needs token_file, and a certificate or "
            "trusted_network.",
            min_length=1,
        ),
    ] = "127.0.0.1"
    port: Annotated[int, setting("Port to bind; 0 takes any free one.", ge=0, le=65535)] = 9100
    token_file: Annotated[
        OptionalPath,
        setting("File with the secret that requests must show as a bearer token."),
    ] = None
    open_addresses: Annotated[
        tuple[Literal["/", "/metrics", "/livez", "/readyz", "/status"], ...],
        setting("What may be read without the token, where there is one."),
    ] = ("/metrics", "/livez", "/readyz")
    certificate_file: Annotated[
        OptionalPath,
        setting("Certificate (PEM, with its chain) to answer over TLS; plain HTTP when null."),
    ] = None
    key_file: Annotated[OptionalPath, setting("The certificate's private key, in PEM.")] = None
    trusted_network: Annotated[
        bool,
        setting(
            "Says that the network is trusted: needed to bind an address other than loopback "
            "without a certificate, because the token can be read on the way."
        ),
    ] = False

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise refuse("certificate", "certificate_file and key_file go together; one is null")
        return self
