"""Does the configuration fit the machine that reads it: files, directories, memory?"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from insitu.config.buffer import BufferSection
from insitu.config.clients import read_clients
from insitu.config.problem import ConfigError, Problem
from insitu.config.records import EvaluationSection
from insitu.config.secrets import read_secret_key, read_token
from insitu.config.service import HttpSection
from insitu.config.stream import CurveSection, StreamSection
from insitu.errors import OperatorError


def machine_problems(sections: Mapping[str, Any]) -> list[Problem]:
    """The problems of the sections that are sound by themselves, on this machine."""
    problems: list[Problem] = []
    for name in ("stream", "http"):
        path = getattr(sections.get(name), "token_file", None)
        if path is not None:
            problems += _token_problems(path, name)
    curve = getattr(sections.get("stream"), "curve", None)
    if curve is not None:
        problems += _curve_problems(curve)
    if "http" in sections:
        problems += _certificate_problems(sections["http"])
    if "evaluation" in sections:
        problems += _probe_problems(sections["evaluation"])
    for name in ("checkpoint", "log"):
        if name in sections:
            problems += _directory_problems(name, sections[name].directory)
    if "stream" in sections:
        problems += _socket_problems(sections["stream"])
        if "buffer" in sections:
            problems += _memory_problems(sections["stream"], sections["buffer"])
    return problems


def _token_problems(path: Path, section: str) -> Iterator[Problem]:
    try:
        read_token(path)
    except OperatorError as error:
        yield Problem((section, "token_file"), error.message, hint=error.remedy)


def _curve_problems(curve: CurveSection) -> Iterator[Problem]:
    if curve.secret_key_file is not None:
        try:
            read_secret_key(curve.secret_key_file)
        except OperatorError as error:
            place = ("stream", "curve", "secret_key_file")
            yield Problem(place, error.message, error.allowed, hint=error.remedy)
    try:
        read_clients(curve.clients_file)
    except ConfigError as error:
        yield Problem(("stream", "curve", "clients_file"), str(error))


def _certificate_problems(http: HttpSection) -> Iterator[Problem]:
    if http.certificate_file is None or http.key_file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            http.certificate_file, http.key_file
        )
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        yield Problem(("http", "certificate_file"), f"cannot be used with its key_file: {reason}")


def _probe_problems(evaluation: EvaluationSection) -> Iterator[Problem]:
    for task, path in evaluation.probe_files.items():
        if not path.is_file():
            message = f"is {str(path)!r}, which is no file"
            yield Problem(("evaluation", "probe_files", task), message)
        elif not os.access(path, os.R_OK):
            message = f"is {str(path)!r}, which this user may not read"
            yield Problem(("evaluation", "probe_files", task), message)


def _directory_problems(name: str, directory: Path | None) -> Iterator[Problem]:
    if directory is None:
        return
    where = (name, "directory")
    there = directory.exists()
    if there and not directory.is_dir():
        yield Problem(where, f"is {str(directory)!r}, which is not a directory")
    elif not there and not directory.parent.is_dir():
        yield Problem(
            where,
            f"is {str(directory)!r}, and {str(directory.parent)!r} does not exist",
            hint=f"mkdir -p {directory}",
        )
    elif not os.access(directory if there else directory.parent, os.W_OK | os.X_OK):
        yield Problem(where, f"is {str(directory)!r}, where this user may not write")


def _socket_problems(stream: StreamSection) -> Iterator[Problem]:
    for index, endpoint in enumerate(stream.endpoints):
        if not endpoint.startswith("ipc://") or endpoint.startswith("ipc://@"):
            continue
        path = Path(endpoint.removeprefix("ipc://"))
        if len(os.fsencode(path)) > 107:
            yield Problem(
                ("stream", "endpoints", index), "is too long for a socket", "107 bytes or less"
            )
        elif not path.parent.is_dir():
            message = f"is {endpoint!r}, and {str(path.parent)!r} does not exist"
            yield Problem(("stream", "endpoints", index), message)


def _memory_problems(stream: StreamSection, buffer: BufferSection) -> Iterator[Problem]:
    row_bytes = stream.as_schema().row_bytes
    needed = buffer.capacity_samples * row_bytes
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > present:
        yield Problem(
            ("buffer", "capacity_samples"),
            f"is {buffer.capacity_samples}: {needed:,} bytes at {row_bytes:,} a sample, "
            f"but this machine has {present:,}",
            f"at most {present // row_bytes}",
        )
