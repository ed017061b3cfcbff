"""What settings of different sections must have in common.

A rule is a generator of problems whose parameters name the sections that it reads; it runs when
all of them are sound by themselves, so that one typo does not hide the rest.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from insitu.config.buffer import BufferSection, PaceSection
from insitu.config.continual import DetectionSection, StrategySection
from insitu.config.learning import TrainerSection
from insitu.config.log import LogSection
from insitu.config.problem import Problem
from insitu.config.records import CheckpointSection
from insitu.config.service import HookSection, HttpSection
from insitu.config.stream import StreamSection
from insitu.errors import did_you_mean

Rule = Callable[..., Iterator[Problem]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Add a rule to the list that every configuration is held against."""
    RULES.append(function)
    return function


def broken_rules(sections: Mapping[str, Any]) -> list[Problem]:
    """The problems of all rules whose sections are there."""
    problems: list[Problem] = []
    for each in RULES:
        names = list(inspect.signature(each).parameters)
        if all(name in sections for name in names):
            problems.extend(each(*(sections[name] for name in names)))
    return problems


@rule
def a_batch_fits_the_ring(trainer: TrainerSection, buffer: BufferSection) -> Iterator[Problem]:
    if trainer.batch_size > buffer.capacity_samples:
        yield Problem(
            ("trainer", "batch_size"),
            f"is {trainer.batch_size}, but the ring holds {buffer.capacity_samples} samples, "
            "so no batch would ever be full",
            "at most buffer.capacity_samples",
        )


@rule
def the_watermark_leaves_room(trainer: TrainerSection, buffer: BufferSection) -> Iterator[Problem]:
    mark, capacity = buffer.watermark_samples, buffer.capacity_samples
    path = ("buffer", "watermark_samples")
    if mark >= capacity:
        yield Problem(
            path,
            f"is {mark}, but the ring holds {capacity} samples, so training would never begin",
            "less than buffer.capacity_samples",
        )
    elif mark and buffer.policy == "fifo":
        yield Problem(
            path, f"is {mark}, but fifo draws in order and waits for no mark", "0 for fifo"
        )
    elif buffer.policy == "firo" and mark + trainer.batch_size > capacity:
        yield Problem(
            path,
            f"is {mark}: with a batch of {trainer.batch_size} above it the ring of {capacity} "
            "samples overflows, so training would never begin",
            f"at most {capacity - trainer.batch_size}",
        )


@rule
def a_sample_fits_a_message(stream: StreamSection) -> Iterator[Problem]:
    row_bytes = stream.as_schema().row_bytes
    if row_bytes > stream.max_batch_bytes:
        yield Problem(
            ("stream", "max_batch_bytes"),
            f"is {stream.max_batch_bytes}, but one sample has {row_bytes} bytes",
            f"{row_bytes} or more",
        )


@rule
def names_stand_once(stream: StreamSection) -> Iterator[Problem]:
    for setting in ("names", "endpoints"):
        values = getattr(stream, setting)
        for index, value in enumerate(values):
            if value in values[:index]:
                yield Problem(("stream", setting, index), f"is {value!r} for the second time")


@rule
def bounds_fit_the_dtype(stream: StreamSection) -> Iterator[Problem]:
    for name, section in stream.fields.items():
        if not section.dtype.startswith(("int", "uint")):
            continue
        signed, bits = section.dtype.startswith("int"), int(section.dtype.removeprefix("u")[3:])
        lowest, highest = (
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        )
        for bound in ("minimum", "maximum"):
            value = getattr(section, bound)
            if value is not None and not lowest <= value <= highest:
                yield Problem(
                    ("stream", "fields", name, bound),
                    f"is {value}, which {section.dtype} cannot hold",
                    f"{lowest} to {highest}",
                )


@rule
def endpoints_have_ports(stream: StreamSection) -> Iterator[Problem]:
    for index, endpoint in enumerate(stream.endpoints):
        port = endpoint.rpartition(":")[2]
        if endpoint.startswith("tcp://") and port != "*" and int(port) > 65535:
            yield Problem(("stream", "endpoints", index), f"has port {port}", "0 to 65535, or *")


@rule
def an_open_network_is_a_choice(stream: StreamSection) -> Iterator[Problem]:
    for index, endpoint in enumerate(stream.endpoints):
        host = endpoint.removeprefix("tcp://").rpartition(":")[0]
        safe = stream.trusted_network or stream.curve is not None or is_loopback(host)
        if endpoint.startswith("tcp://") and not safe:
            yield Problem(
                ("stream", "endpoints", index),
                f"is {endpoint!r}, which other machines can reach, and the stream is not encrypted",
                "a loopback address, or stream.curve, or trusted_network: true",
                "`insitu keys` makes keys; insitu/docs/security.md has the steps",
            )


@rule
def all_producers_have_a_connection(stream: StreamSection) -> Iterator[Problem]:
    if stream.max_producers > stream.max_connections:
        yield Problem(
            ("stream", "max_connections"),
            f"is {stream.max_connections}, fewer than max_producers ({stream.max_producers})",
            f"{stream.max_producers} or more",
        )


@rule
def open_control_needs_a_token(http: HttpSection) -> Iterator[Problem]:
    if not is_loopback(http.host) and http.token_file is None:
        yield Problem(
            ("http", "host"),
            f"is {http.host!r}, so other machines could stop the service",
            "a loopback address, or http.token_file as well",
        )


@rule
def a_token_is_not_shown_to_the_network(http: HttpSection) -> Iterator[Problem]:
    if not is_loopback(http.host) and http.certificate_file is None and not http.trusted_network:
        yield Problem(
            ("http", "host"),
            f"is {http.host!r}, which other machines can reach, and HTTP is not encrypted",
            "a loopback address, or certificate_file and key_file, or trusted_network: true",
        )


@rule
def no_secret_stands_in_a_url(hooks: tuple[HookSection, ...]) -> Iterator[Problem]:
    for index, hook in enumerate(hooks):
        if hook.post is not None and "@" in hook.post.split("/", 3)[2]:
            yield Problem(
                ("hooks", index, "post"),
                "names a user or password, which the configuration would show to everybody",
                "a URL without them; a shell or python hook can read a secret from a file",
            )


@rule
def normalised_fields_exist(trainer: TrainerSection, stream: StreamSection) -> Iterator[Problem]:
    fields = list(stream.fields)
    for name in trainer.normalise:
        path = ("trainer", "normalise", name)
        if name not in fields:
            yield Problem(
                path, "is no field of the stream", ", ".join(fields), did_you_mean(name, fields)
            )


@rule
def a_rollback_needs_checkpoints(
    trainer: TrainerSection, checkpoint: CheckpointSection
) -> Iterator[Problem]:
    if trainer.non_finite == "rollback" and checkpoint.directory is None:
        yield Problem(
            ("trainer", "non_finite"),
            "is 'rollback', but there are no checkpoints to go back to",
            "checkpoint.directory as well, or 'skip' or 'stop'",
        )


@rule
def seen_once_is_paced_once(buffer: BufferSection, pace: PaceSection) -> Iterator[Problem]:
    if buffer.policy in ("fifo", "firo") and pace.samples_per_insert != 1:
        yield Problem(
            ("pace", "samples_per_insert"),
            f"is {pace.samples_per_insert:g}, but {buffer.policy} gives every sample once",
            "1.0, or buffer.policy: reservoir",
        )


@rule
def strategies_stand_once(strategies: tuple[StrategySection, ...]) -> Iterator[Problem]:
    names = [section.name for section in strategies]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem(("strategies", index, "name"), f"is {name!r} for the second time")


@rule
def detectors_stand_once(detection: tuple[DetectionSection, ...]) -> Iterator[Problem]:
    names = [section.name for section in detection]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem(("detection", index, "name"), f"is {name!r} for the second time")


@rule
def only_steps_are_counted(hooks: tuple[HookSection, ...]) -> Iterator[Problem]:
    for index, hook in enumerate(hooks):
        if hook.every != 1 and hook.on in ("start", "stop"):
            yield Problem(
                ("hooks", index, "every"), f"is {hook.every}, but {hook.on} comes once", "1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0"), is_loopback("*")
        (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@rule
def an_ack_is_worth_what_it_says(log: LogSection) -> Iterator[Problem]:
    if log.ack_level in ("logged", "durable") and log.directory is None:
        yield Problem(
            ("log", "ack_level"),
            f"is {log.ack_level!r}, and there is no log",
            "log.directory as well, or 'received'",
        )


@rule
def a_log_goes_with_checkpoints(
    log: LogSection, checkpoint: CheckpointSection
) -> Iterator[Problem]:
    if log.directory is not None and checkpoint.directory is None:
        yield Problem(
            ("log", "directory"),
            "is set and there are no checkpoints, so the log would grow for ever",
            "checkpoint.directory as well",
        )


@rule
def a_segment_holds_a_batch(log: LogSection, stream: StreamSection) -> Iterator[Problem]:
    least = 2 * stream.max_batch_bytes
    if log.directory is not None and log.segment_bytes < least:
        yield Problem(
            ("log", "segment_bytes"),
            f"is {log.segment_bytes}, and a batch may have {stream.max_batch_bytes} bytes",
            f"{least} or more, twice stream.max_batch_bytes",
        )
