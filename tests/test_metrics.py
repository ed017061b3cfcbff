"""The table of metrics and its exposition, checked by the tool that Prometheus ships."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import CollectorRegistry

from insitu.errors import InternalError
from insitu.hooks import ALERTS
from insitu.metrics import LABELS, METRICS, OTHER, REASONS, Metric
from insitu.report import PHASES
from insitu_service.monitoring.collector import InsituCollector, Reading, expose

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def registry_of(readings: Iterable[Reading], *, strict: bool = True) -> CollectorRegistry:
    registry = CollectorRegistry()
    fixed = list(readings)
    registry.register(InsituCollector(lambda: fixed, strict=strict))
    return registry


def one_of_each() -> list[Reading]:
    """A reading for every metric, with awkward label values where they are free."""
    awkward = 'a "quoted" \\ name\nof ünits'
    return [
        Reading(m.name, tuple((LABELS[x].values or (awkward,))[0] for x in m.labels), 2.5, 3)
        for m in METRICS
    ]


# The table


def test_names_are_unique_and_everything_is_described() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.meaning.endswith(".")
        assert metric.unit or metric.kind in ("gauge", "info"), metric.name
        assert len(set(metric.labels)) == len(metric.labels)
    used = {label for metric in METRICS for label in metric.labels}
    assert used == LABELS.keys()
    assert all(label.meaning for label in LABELS.values())
    assert all(len(label.values) <= label.most_values for label in LABELS.values())
    assert {m.name for m in METRICS if "reason" in m.labels} == REASONS.keys()


def test_seconds_bytes_and_samples_are_in_the_name() -> None:
    for metric in METRICS:
        for unit in ("seconds", "bytes", "samples"):
            assert (metric.unit == unit) == (unit in metric.name.split("_")), metric.name


# Exposition


@pytest.mark.parametrize("readings", [[], one_of_each()], ids=["at start", "one of each"])
def test_promtool_finds_nothing_to_say(readings: list[Reading]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is not installed, and CI has to have it")
        pytest.skip("promtool is not installed (Debian package prometheus)")
    text, _ = expose(registry_of(readings), "")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_metric_appears_in_both_formats() -> None:
    registry = registry_of(one_of_each())
    text, text_type = expose(registry, "")
    assert text_type.startswith("text/plain")
    openmetrics, openmetrics_type = expose(registry, OPENMETRICS)
    assert openmetrics_type.startswith("application/openmetrics-text")
    assert openmetrics.endswith(b"# EOF\n")
    for families in (parse_text(text.decode()), parse_openmetrics(openmetrics.decode())):  # type: ignore[no-untyped-call]
        names = {sample.name for family in families for sample in family.samples}
        for metric in METRICS:
            expected = f"{metric.name}_sum" if metric.kind == "summary" else metric.name
            assert expected in names
    for metric in METRICS:
        assert text.decode().count(f"\n# TYPE {metric.name} ") <= 1
        assert metric.meaning in text.decode()


def test_what_is_known_is_there_from_the_start_with_zero() -> None:
    registry = registry_of([])
    for metric in METRICS:
        if not metric.labels and metric.kind in ("counter", "gauge"):
            assert registry.get_sample_value(metric.name) == 0
    for phase in PHASES:
        assert registry.get_sample_value("insitu_step_seconds_total", {"phase": phase}) == 0
    for kind in ALERTS:
        assert registry.get_sample_value("insitu_alerts_total", {"kind": kind}) == 0
    for name, reasons in REASONS.items():
        assert reasons
        for reason in reasons:
            assert registry.get_sample_value(name, {"reason": reason}) == 0
    for source in ("fresh", "replayed"):
        labels = {"source": source}
        assert registry.get_sample_value("insitu_trained_samples_total", labels) == 0
    assert registry.get_sample_value("insitu_sample_age_seconds_count") == 0
    assert registry.get_sample_value("insitu_sample_age_seconds_sum") == 0
    text = expose(registry, "")[0].decode()
    for metric in METRICS:
        assert f"# HELP {metric.name} " in text


def test_values_and_labels_arrive() -> None:
    registry = registry_of([
        Reading("insitu_steps_total", (), 12),
        Reading("insitu_loss", ("classify", "fresh"), 0.25),
        Reading("insitu_loss", ("classify", "replayed"), float("nan")),
        Reading("insitu_sample_age_seconds", (), 7.5, 3),
        Reading("insitu_build_info", ("0.1", "2.13", "3.11", "cpu"), 1),
        Reading("insitu_trained_samples_total", ("fresh",), 3),
        Reading("insitu_trained_samples_total", ("fresh",), 4),
    ])  # fmt: skip
    value = registry.get_sample_value
    assert value("insitu_steps_total") == 12
    assert value("insitu_loss", {"objective": "classify", "source": "fresh"}) == 0.25
    loss = value("insitu_loss", {"objective": "classify", "source": "replayed"})
    assert loss is not None
    assert loss != loss
    assert value("insitu_sample_age_seconds_sum") == 7.5
    assert value("insitu_sample_age_seconds_count") == 3
    info = {"version": "0.1", "torch": "2.13", "python": "3.11", "device": "cpu"}
    assert value("insitu_build_info", info) == 1
    assert value("insitu_trained_samples_total", {"source": "fresh"}) == 7
    assert "NaN" in expose(registry, "")[0].decode()


def test_state_is_read_at_each_scrape_and_not_at_registration() -> None:
    reads: list[int] = []

    def read() -> list[Reading]:
        reads.append(1)
        return [Reading("insitu_steps_total", (), len(reads))]

    registry = CollectorRegistry()
    registry.register(InsituCollector(read))
    assert reads == []
    assert [registry.get_sample_value("insitu_steps_total") for _ in range(3)] == [1, 2, 3]


# Bounds


@pytest.mark.parametrize(
    "wrong",
    [
        Reading("insitu_stepz_total", (), 1),
        Reading("insitu_steps_total", ("label",), 1),
        Reading("insitu_loss", ("classify",), 1),
    ],
)
def test_a_reading_outside_of_the_table_is_an_error(
    wrong: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InternalError, match=wrong.name):
        expose(registry_of([wrong]), "")
    registry = registry_of([wrong, Reading("insitu_tasks", (), 4)], strict=False)
    for scrapes in (1, 2, 3):
        assert registry.get_sample_value("insitu_unknown_readings_total") == scrapes
    assert registry.get_sample_value("insitu_tasks") == 4
    assert caplog.text.count(wrong.name) == 1


def test_a_full_label_adds_up_what_comes_later_and_keeps_what_came_first() -> None:
    most = LABELS["task"].most_values
    samples = [Reading("insitu_buffer_task_samples", (f"t{i}",), 1.0) for i in range(most + 5)]
    scores = [
        Reading("insitu_evaluation_score", (f"t{i}", "accuracy"), float(i)) for i in range(most + 5)
    ]
    order = [*samples, *scores]
    registry = CollectorRegistry()
    registry.register(InsituCollector(lambda: order, strict=True))
    value = registry.get_sample_value
    for _ in range(2):
        assert value("insitu_buffer_task_samples", {"task": "t0"}) == 1
        assert value("insitu_buffer_task_samples", {"task": f"t{most}"}) is None
        assert value("insitu_buffer_task_samples", {"task": OTHER}) == 5
        mean = value("insitu_evaluation_score", {"task": OTHER, "figure": "accuracy"})
        assert mean == most + 2
        order.reverse()  # the first scrape has decided


@given(tasks=st.lists(st.text(max_size=3), max_size=200))
@settings(max_examples=25, deadline=None)
def test_the_number_of_series_is_bounded_and_nothing_is_lost(tasks: list[str]) -> None:
    registry = registry_of(Reading("insitu_memory_task_samples", (task,), 1.0) for task in tasks)
    (family,) = [f for f in registry.collect() if f.name == "insitu_memory_task_samples"]
    assert len(family.samples) <= LABELS["task"].most_values + 1
    assert sum(sample.value for sample in family.samples) == len(tasks)


def test_reasons_are_bounded_metric_by_metric() -> None:
    most = LABELS["reason"].most_values
    readings = [Reading("insitu_refused_messages_total", (f"r{i}",), 1) for i in range(most + 9)]
    readings.append(Reading("insitu_quarantined_samples_total", ("new",), 1))
    registry = registry_of(readings)
    value = registry.get_sample_value
    known = len(REASONS["insitu_refused_messages_total"])
    assert value("insitu_refused_messages_total", {"reason": OTHER}) == 9 + known
    assert value("insitu_quarantined_samples_total", {"reason": "new"}) == 1


def test_the_table_refuses_names_against_the_rules() -> None:
    for name, kind in [("steps_total", "counter"), ("insitu_steps", "counter"),
                       ("insitu_steps_total", "gauge"), ("insitu_build", "info")]:  # fmt: skip
        with pytest.raises(AssertionError):
            Metric(name, kind, "", (), "Wrong.")  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["1.0.0\x8d", "x.y", "1.0.0.0.0", "", "1e9"])
def test_an_absurd_version_in_the_accept_header_gets_text(version: str) -> None:
    text, _ = expose(registry_of([]), f"application/openmetrics-text; version={version}")
    assert b"insitu_messages_total" in text
