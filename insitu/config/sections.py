"""The sections of the configuration file; every setting explained where it is declared.

A relative path is looked up from the working directory of the service, as in a shell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from insitu.config.setting import Section, setting
from insitu.schema import DTYPES, Schema

ProbePath = Annotated[Path, Field(strict=False)]
TaskName = Annotated[str, Field(min_length=1, max_length=256)]
OptionalPath = Annotated[Path, Field(strict=False)] | None
Options = Annotated[
    dict[str, Any], setting("Its options; the tables of components list them with their ranges.")
]
COMPONENT_NAME = "One of ours by its name, or your own as package.module:factory."


def _refuse(code: str, message: str, **values: Any) -> PydanticCustomError:
    return PydanticCustomError(code, message, values)


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
            "stderr and the process ends with code 8, to be started again with --resume. Longer "
            "than the longest step, evaluation or compilation.",
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


class FieldSection(Section):
    """One named tensor of a sample."""

    dtype: Annotated[Literal[tuple(sorted(DTYPES))], setting("Type of its elements.")]  # type: ignore[valid-type]
    shape: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        setting("Extents of one sample, without the axis of rows; [] for a single number."),
    ] = ()
    minimum: Annotated[
        int | float | None,
        setting("Samples with an element below this are quarantined.", unit="of the field"),
    ] = None
    maximum: Annotated[
        int | float | None,
        setting("Samples with an element above this are quarantined.", unit="of the field"),
    ] = None

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        bounded = self.minimum is not None or self.maximum is not None
        if bounded and (self.dtype == "bool" or self.dtype.startswith("complex")):
            raise _refuse("bounds", "a {dtype} field takes no minimum or maximum", dtype=self.dtype)
        if None not in (self.minimum, self.maximum) and self.minimum > self.maximum:  # type: ignore[operator]
            raise _refuse(
                "bounds",
                "minimum {minimum} is above maximum {maximum}, so no sample would pass",
                minimum=self.minimum,
                maximum=self.maximum,
            )
        return self


FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]


class CurveSection(Section):
    """Encryption of the stream over tcp, and whose keys may connect (`insitu keys` makes them)."""

    secret_key_file: Annotated[
        OptionalPath,
        setting(
            "File with the service's secret key; null takes it from the variable "
            "INSITU_SERVER_SECRET_KEY."
        ),
    ] = None
    clients_file: Annotated[
        Path,
        Field(strict=False),
        setting("File with the public keys that may connect, and the producer ids of each."),
    ]


class StreamSection(Section):
    """What producers may send, and where they reach the service."""

    names: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")], ...],
        setting("Streams that are accepted, all with these fields.", min_length=1),
    ]
    endpoints: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(tcp://.+:(\d{1,5}|\*)|ipc://.+)$")], ...],
        setting("ZeroMQ addresses to bind: tcp://HOST:PORT or ipc://PATH.", min_length=1),
    ] = ("tcp://127.0.0.1:5555",)
    fields: Annotated[
        dict[FieldName, FieldSection], setting("The tensors of a sample by name.", min_length=1)
    ]
    non_finite: Annotated[
        Literal["quarantine", "clip", "accept"],
        setting(
            "What happens to samples with NaN or infinity: left out and counted (quarantine), "
            "NaN to 0 and infinity to the largest number (clip), or trained (accept)."
        ),
    ] = "quarantine"
    max_producers: Annotated[
        int, setting("Producers connected at once.", unit="producers", ge=1, le=100_000)
    ] = 64
    max_tasks: Annotated[
        int,
        setting("Distinct task names; batches of further ones are refused.", unit="tasks", ge=1),
    ] = 1000
    max_batch_bytes: Annotated[
        int, setting("Largest batch on the wire.", unit="bytes", ge=1024, le=1 << 30)
    ] = 8 << 20
    session_timeout_seconds: Annotated[
        float,
        setting(
            "A producer silent for this long has left; its task may end.", unit="seconds", gt=0
        ),
    ] = 30.0
    producer_rate_samples_per_second: Annotated[
        float | None,
        setting(
            "Samples that one producer may send, on average; null for any number. It is given no "
            "more credit, so that nothing is dropped here.",
            unit="samples/second",
            gt=0,
        ),
    ] = None
    producer_rate_bytes_per_second: Annotated[
        float | None,
        setting(
            "Bytes that one producer may send, on average; null for any number. The smaller of "
            "the two rates counts.",
            unit="bytes/second",
            gt=0,
        ),
    ] = None
    token_file: Annotated[
        OptionalPath, setting("File with the secret that producers must show; none when null.")
    ] = None
    trusted_network: Annotated[
        bool,
        setting(
            "Says that the network is trusted: needed to bind a tcp address other than "
            "loopback where `curve` does not encrypt the stream."
        ),
    ] = False
    curve: Annotated[
        CurveSection | None,
        setting("Encrypts tcp and asks for keys; null for neither. The page on security says how."),
    ] = None
    max_connections: Annotated[
        int,
        setting(
            "Connections open at once, with a session or not; beyond them the oldest without a "
            "session is cut.",
            unit="connections",
            ge=1,
            le=100_000,
        ),
    ] = 512
    max_handshakes_per_second: Annotated[
        float,
        setting(
            "New connections let in, on average and at once; further ones try again.",
            unit="connections/second",
            gt=0,
        ),
    ] = 500.0
    max_hellos_per_second: Annotated[
        float,
        setting(
            "Greetings of one connection, on average and at once; further ones are refused.",
            unit="messages/second",
            ge=1,
        ),
    ] = 100.0
    greeting_seconds: Annotated[
        float,
        setting("A connection that has no session for this long is cut.", unit="seconds", gt=0),
    ] = 15.0
    max_stranger_bytes: Annotated[
        int,
        setting(
            "Bytes that a tcp connection may send while it has no session, or in one message "
            "when it has one; then it is cut.",
            unit="bytes",
            ge=64 << 10,
        ),
    ] = 16 << 20
    max_message_bytes: Annotated[
        int,
        setting(
            "Largest part of a message; a connection that sends a larger one is cut unread.",
            unit="bytes",
            ge=2 << 20,
            le=1 << 30,
        ),
    ] = 4 << 20
    max_queued_messages: Annotated[
        int,
        setting(
            "Fragments of one connection that wait in the service to be handled; then it is not "
            "read from until some were.",
            unit="messages",
            ge=1,
            le=65_536,
        ),
    ] = 256

    def as_schema(self) -> Schema:
        """The rows that the fields make up."""
        return Schema.of({name: (f.dtype, f.shape) for name, f in self.fields.items()})


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
            raise _refuse(
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
            raise _refuse(
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
            raise _refuse("certificate", "certificate_file and key_file go together; one is null")
        return self
