"""Log lines and progress: their form, their repetition, and what never appears in them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from insitu_service.monitoring.logs import RepetitionFilter, configure_logs
from insitu_service.monitoring.progress import LiveTable, PlainLines, line, show_progress, table
from insitu_service.status import figures

STATUS: dict[str, Any] = {
    "service": {"name": "s", "version": "1", "state": "running", "resumed_from": "checkpoint-1"},
    "stream": {"received_samples": 5000, "trained_samples": 1, "dropped_samples": 2},
    "buffer": {"policy": "fifo", "capacity_samples": 100, "pending_samples": 10,
               "kept_samples": 0, "free_samples": 90},
    "memory": {"samples": 20, "capacity_samples": 40, "by_task": {"a": 20}},
    "trainer": {"step": 1234, "loss": 0.25, "loss_fresh": 0.5, "loss_replayed": None,
                "scores": {"accuracy": 0.75}, "steps_per_second": 10.0,
                "samples_per_second": 320.0, "skipped_steps": 0},
    "tasks": [{"name": "a", "visit": 0, "samples": 7, "state": "open"}],
    "producers": [{"id": f"p{i}", "state": "live", "rows": i} for i in range(7)],
    "checkpoint": {"last": None, "failures": 1},
}  # fmt: skip

Configure = Callable[..., io.StringIO]


@pytest.fixture
def configured() -> Iterator[Configure]:
    loggers = [logging.getLogger(name) for name in ("insitu", "uvicorn", "asyncio")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]

    def configure(**options: Any) -> io.StringIO:
        stream = io.StringIO()
        configure_logs(stream=stream, **options)
        return stream

    yield configure
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_json_lines_have_the_fields(configured: Configure) -> None:
    stream = configured(form="json")
    logger = logging.getLogger("insitu.learner")
    logger.info("task %s ended", "a\nb", extra={"step": 3, "scores": {"a": 1.0}})
    logger.debug("not at this level")
    try:
        raise ValueError("on purpose")
    except ValueError:
        logger.exception("it failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info", "logger": "insitu.learner", "message": "task a\nb ended",
        "step": 3, "scores": {"a": 1.0},
    }  # fmt: skip
    assert "on purpose" in second["exception"]


def test_plain_lines_and_levels(configured: Configure) -> None:
    stream = configured(form="auto", level="warning")  # a StringIO is no terminal
    assert stream.getvalue() == ""
    stream = configured(form="plain", level="warning")
    logging.getLogger("insitu").info("quiet")
    logging.getLogger("insitu.x").warning("loud", extra={"step": 3})
    assert stream.getvalue()[9:] == "warning loud step=3\n"


def test_configuring_twice_does_not_double_the_lines(configured: Configure) -> None:
    configured()
    stream = configured()
    logging.getLogger("insitu").info("once")
    assert len(stream.getvalue().splitlines()) == 1


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1))
def test_secrets_never_appear(secret: str) -> None:
    for form in ("json", "plain"):
        stream = io.StringIO()
        configure_logs(form=form, stream=stream, secrets=[secret, ""])  # type: ignore[arg-type]
        logging.getLogger("insitu").error("<%s>", secret, extra={"token_seen": secret})
        logging.getLogger("insitu").handlers.clear()
        text = stream.getvalue()
        if form == "json":
            values = json.loads(text)
            assert secret not in values["message"].replace("***", "")
        else:
            assert secret not in text[17:].replace("***", "")


def test_a_line_that_repeats_is_counted(configured: Configure) -> None:
    now = [0.0]
    stream = configured(form="json")
    handler = logging.getLogger("insitu").handlers[-1]
    handler.filters[:] = [RepetitionFilter(10.0, clock=lambda: now[0])]
    logger = logging.getLogger("insitu.ingest")
    for _ in range(1000):
        logger.warning("refused", extra={"key": "refused"})
        logger.warning("other", extra={"key": "other"})
    now[0] = 10.0
    logger.warning("refused", extra={"key": "refused"})
    for _ in range(3):
        logger.warning("no key")
    lines = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert [each["message"] for each in lines] == ["refused", "other", "refused", *["no key"] * 3]
    assert lines[2]["left_out"] == 999
    assert "left_out" not in lines[0]


def test_lines_of_a_library_cannot_flood_the_log(configured: Configure) -> None:
    stream = configured(form="json")
    for number in range(5):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request %d received.", number)
        logging.getLogger("uvicorn.error").warning("another")
    lines = [json.loads(each)["message"] for each in stream.getvalue().splitlines()]
    assert lines == ["Invalid HTTP request 0 received.", "another"]


def test_invented_keys_do_not_fill_the_memory() -> None:
    seen = RepetitionFilter(10.0, clock=lambda: 0.0)
    for number in range(5000):
        seen.filter(logging.makeLogRecord({"name": "insitu", "key": f"producer-{number}"}))
    assert len(seen._seen) <= 1000


def test_a_reader_that_is_gone_ends_nothing(configured: Configure) -> None:
    configured().close()
    logging.getLogger("insitu").error("nobody reads this")


# progress


def test_one_line_says_the_most() -> None:
    assert line(STATUS) == (
        "running | step 1,234 | loss 0.25 | 320 samples/s | buffer 10 of 100 | "
        "memory 20 of 40 | task a | 2 dropped"
    )
    assert line({}) == "starting"


def test_the_table_has_every_figure() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(table(STATUS))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for label, value in figures(STATUS):
        assert label in text
        assert value.split(",")[0] in text
    assert "resumed from checkpoint-1" in text
    assert "and 2 more" in text
    assert "none yet, 1 failed" in text


def test_every_part_may_be_missing() -> None:
    for missing in STATUS:
        assert figures({key: part for key, part in STATUS.items() if key != missing})
        assert line({key: part for key, part in STATUS.items() if key != missing})
    assert figures(dict.fromkeys(STATUS)) == []


def test_plain_lines_come_until_closed_and_once_more() -> None:
    stream = io.StringIO()
    progress = show_progress(lambda: STATUS, stream=stream, interval_seconds=3600.0)
    assert isinstance(progress, PlainLines)
    progress.close()
    progress.close()
    assert stream.getvalue() == line(STATUS) + "\n"


def test_a_terminal_gets_a_table_that_ends_complete() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        progress = show_progress(lambda: STATUS, stream=terminal)
        assert isinstance(progress, LiveTable)
        progress.close()
    shown = b""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as reader:
        while piece := reader.read(1 << 16):  # the end of a terminal is an error
            shown += piece
    assert "1,234 at 10/s" in shown.decode()
    assert "none yet, 1 failed" in shown.decode()
