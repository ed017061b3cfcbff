"""From readings to Prometheus: live state read at scrape time, checked against the one table."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from insitu.errors import InternalError
from insitu.metrics import LABELS, METRICS, OTHER, REASONS, Metric

log = logging.getLogger("insitu.metrics")


@dataclass(frozen=True, slots=True)
class Reading:
    """The value of one series now.

    Args:
        name: of a metric of the table.
        labels: the values of its labels, in the table's order.
        value: for a summary, the sum.
        count: for a summary, how many observations are in the sum.
    """

    name: str
    labels: tuple[str, ...] = ()
    value: float = 0.0
    count: int = 0


class InsituCollector(Collector):
    """A collector of prometheus_client that asks `read` at every scrape.

    Series with known label values are there from the start with 0. A label that is full keeps
    the values that came first, for the life of the collector; others go to `other`. So a counter
    stays monotonic if `read` keeps giving what it gave once.

    Args:
        read: gives the readings, from any thread; several of the same series are added up.
        strict: a reading that is not in the table raises InternalError. Otherwise it is counted
            (`insitu_unknown_readings_total`), logged once, and left out: the rest is worth more.

    Example:
        >>> registry = CollectorRegistry()
        >>> registry.register(InsituCollector(lambda: [Reading("insitu_steps_total", (), 7)]))
        >>> registry.get_sample_value("insitu_steps_total")
        7.0
    """

    def __init__(self, read: Callable[[], Iterable[Reading]], *, strict: bool = False) -> None:
        self._read = read
        self._strict = strict
        self._metrics: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
        self._lock = threading.Lock()  # scrapes may overlap
        self._admitted: dict[tuple[str, str], set[str]] = {}  # (metric or "", label) -> values
        self._unknown = 0
        self._logged: set[str] = set()

    def describe(self) -> Iterator[Family]:
        """The families without samples, so that registering reads nothing."""
        for metric in METRICS:
            yield _family(metric)

    def collect(self) -> Iterator[Family]:
        """All families, with the values of now."""
        readings = list(self._read())
        with self._lock:
            series = self._series(readings)
        for metric in METRICS:
            family = _family(metric)
            for labels, values in series[metric.name].items():
                _add(family, metric, dict(zip(metric.labels, labels, strict=True)), values)
            yield family

    def _series(self, readings: list[Reading]) -> dict[str, dict[tuple[str, ...], list[Reading]]]:
        """name -> label values -> what the series is made of; the caller holds the lock."""
        series: dict[str, dict[tuple[str, ...], list[Reading]]] = {
            metric.name: {labels: [] for labels in _known_series(metric)} for metric in METRICS
        }
        for reading in readings:
            metric = self._metrics.get(reading.name)
            if metric is None or len(reading.labels) != len(metric.labels):
                self._refuse(reading, metric)
                continue
            labels = tuple(
                self._bounded(metric, label, value)
                for label, value in zip(metric.labels, reading.labels, strict=True)
            )
            series[metric.name].setdefault(labels, []).append(reading)
        unknown = Reading("insitu_unknown_readings_total", (), self._unknown)
        series[unknown.name][()].append(unknown)
        return series

    def _bounded(self, metric: Metric, label: str, value: str) -> str:
        """The value, or `other` when the label is full. Reasons are bounded metric by metric."""
        key = (metric.name if label == "reason" else "", label)
        admitted = self._admitted.setdefault(key, set(_known_values(metric, label)))
        if value not in admitted:
            if len(admitted) >= LABELS[label].most_values:
                return OTHER
            admitted.add(value)
        return value

    def _refuse(self, reading: Reading, metric: Metric | None) -> None:
        allowed = "a name of insitu.metrics.METRICS" if metric is None else f"{metric.labels}"
        error = InternalError(
            f"the reading {reading.name}{reading.labels} is not in the table of metrics",
            allowed=allowed,
            consequence="it is left out",
        )
        if self._strict:
            raise error
        self._unknown += 1
        if reading.name not in self._logged:
            self._logged.add(reading.name)
            log.error("%s", error)


def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The metrics and their content type: OpenMetrics where the Accept header asks for it."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it asks for a version that is no number
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


def _known_values(metric: Metric, label: str) -> tuple[str, ...]:
    return REASONS.get(metric.name, ()) if label == "reason" else LABELS[label].values


def _known_series(metric: Metric) -> Iterable[tuple[str, ...]]:
    """The label values that are there from the start; (()) for a metric without labels."""
    if metric.kind == "info":
        return ()
    return itertools.product(*(_known_values(metric, label) for label in metric.labels))


def _family(metric: Metric) -> Family:
    name = metric.name.removesuffix("_total").removesuffix("_info")
    unit = metric.unit if metric.unit and name.endswith(f"_{metric.unit}") else ""
    return Family(name, metric.meaning, metric.kind, unit)


def _add(family: Family, metric: Metric, labels: dict[str, str], readings: list[Reading]) -> None:
    value = float(sum(reading.value for reading in readings))
    if metric.kind == "info":
        value = 1.0
    if metric.kind == "summary":
        count = sum(reading.count for reading in readings)
        family.add_sample(f"{metric.name}_count", labels, count)
        family.add_sample(f"{metric.name}_sum", labels, value)
        return
    if metric.overflow == "mean" and OTHER in labels.values() and readings:
        value /= len(readings)
    family.add_sample(metric.name, labels, value)
