"""The section of the stream: what producers may send, where, how much, and with which keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.config.setting import OptionalPath, Section, refuse, setting
from insitu.schema import DTYPES, Schema


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
            raise refuse("bounds", "a {dtype} field takes no minimum or maximum", dtype=self.dtype)
        if None not in (self.minimum, self.maximum) and self.minimum > self.maximum:  # type: ignore[operator]
            raise refuse(
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
    ] = 10.0
    max_wasted_messages_per_second: Annotated[
        float,
        setting(
            "Messages of one connection that lead to nothing (not understood, refused, of no "
            "session, PING after PING), on average and at once; beyond them it is not listened "
            "to for a second, and for longer if it goes on.",
            unit="messages/second",
            ge=1,
        ),
    ] = 60.0
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
