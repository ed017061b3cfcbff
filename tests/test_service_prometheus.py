"""A real Prometheus scrapes a service that trains, and finds the true numbers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon import Daemon, wait_for
from insitu.metrics import METRICS, Metric
from served import config, producer, push

DEPLOY = Path(__file__).parent.parent / "deploy" / "prometheus"
ROWS = 804  # 100 steps of 8, and a short one at the end
STRATEGIES = [
    {
        "name": "replay",
        "options": {"samples_per_step": 4},
        "memory": {"name": "reservoir", "capacity_samples": 50},
    },
    {"name": "online_ewc"},
    {"name": "kernel_plasticity"},
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service with a bit of everything, so that every metric has a series."""
    directory = tmp_path_factory.mktemp("service")
    sections = config(
        directory,
        strategies=STRATEGIES,  # type: ignore[arg-type]
        hooks=[{"on": "checkpoint", "shell": "true"}],  # type: ignore[arg-type]
        detection=[{"name": "page_hinkley"}],  # type: ignore[arg-type]
        model={"name": "hebbian", "options": {"blocks": [{"kernels": 16}]}},
    )
    with Daemon(directory, sections) as daemon:
        yield daemon.start()


@pytest.fixture(scope="module")
def exposition(daemon: Daemon) -> str:
    return daemon.get("/metrics")[1]


class Prometheus:
    """A server in a directory of its own that scrapes one service every 200 ms."""

    def __init__(self, program: str, directory: Path, target: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        text = (DEPLOY / "prometheus.yml").read_text()
        text = text.replace("127.0.0.1:9100", target).replace("15s", "200ms")
        (directory / "prometheus.yml").write_text(text)
        rules = (DEPLOY / "insitu.rules.yml").read_text()
        (directory / "insitu.rules.yml").write_text(rules)
        words = [
            program,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(words, cwd=directory, stderr=self._log, stdout=self._log)

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its API; None while it does not answer."""
        try:
            url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            error.close()
            return None
        except OSError:
            return None

    def value(self, query: str) -> float | None:
        """Of a query with one series."""
        result = (self.ask("query", query=query) or {}).get("result", [])
        return float(result[0]["value"][1]) if result else None

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@pytest.fixture
def prometheus(
    daemon: Daemon, tmp_path: Path, need_program: Callable[[str], str]
) -> Iterator[Prometheus]:
    server = Prometheus(need_program("prometheus"), tmp_path, daemon.url.removeprefix("http://"))
    yield server
    server.close()


def test_prometheus_has_the_true_values(daemon: Daemon, prometheus: Prometheus) -> None:
    up = "up{job='insitu'}"
    wait_for(lambda: prometheus.value(up) == 1, "the first scrape")
    assert prometheus.value("insitu_trained_samples_total{source='fresh'}") == 0
    with producer(daemon, linger_seconds=60) as source:
        push(source, 0, ROWS, task="only")
        push(source, 5000, 5040, task="only", evaluate=True)
    assert daemon.post("checkpoint")[0] == 200
    truth = {
        "insitu_trained_samples_total{source='fresh'}": ROWS,
        "insitu_trained_samples_total{source='replayed'}": 4 * (ROWS // 8),
        "insitu_received_samples_total": ROWS + 40,
        "insitu_accepted_samples_total": ROWS + 40,
        "insitu_probe_samples_total": 40,
        "insitu_producer_pushed_samples_total{producer='rank-0'}": ROWS + 40,
        "insitu_steps_total": ROWS // 8 + 1,
        "insitu_memory_samples": 50,
        "insitu_memory_task_samples{task='only'}": 50,
        "insitu_buffer_unseen_samples": 0,
        "insitu_sessions": 0,
        "insitu_ended_tasks_total": 1,
        "insitu_ready": 1,
        "sum(insitu_refused_messages_total) + sum(insitu_refused_sessions_total)": 0,
    }
    for query, value in truth.items():
        wait_for(
            lambda query=query, value=value: prometheus.value(query) == value,  # type: ignore[misc]
            f"{query} to be {value}",
        )
    assert (prometheus.value("insitu_loss{source='fresh'}") or 0) > 0
    assert prometheus.value(f"min_over_time({up}[1m])") == 1  # no scrape failed while it trained
    assert prometheus.value("max_over_time(scrape_duration_seconds[1m])") is not None


def test_the_rules_load_and_are_evaluated(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = (prometheus.ask("rules") or {}).get("groups", [])
        found = [rule for group in groups for rule in group["rules"]]
        return found if found and all(rule["health"] == "ok" for rule in found) else []

    names = {rule["name"] for rule in wait_for(rules, "healthy rules")}
    assert {"InsituDown", "InsituSamplesLost"} <= names


def test_every_metric_of_the_rules_exists() -> None:
    named = set(re.findall(r"\binsitu_\w+", (DEPLOY / "insitu.rules.yml").read_text()))
    assert named
    assert named <= {metric.name for metric in METRICS}


def test_promtool_finds_nothing_wrong(daemon: Daemon, need_program: Callable[[str], str]) -> None:
    """Names, units, types and help of the live exposition; and the files that we deploy."""
    promtool = need_program("promtool")
    text = daemon.get("/metrics", accept="text/plain")[1]
    check = [promtool, "check", "metrics"]
    done = subprocess.run(check, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for kind, name in (("config", "prometheus.yml"), ("rules", "insitu.rules.yml")):
        subprocess.run([promtool, "check", kind, name], cwd=DEPLOY, check=True)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_in_the_live_exposition(exposition: str, metric: Metric) -> None:
    families = list(text_string_to_metric_families(exposition))
    names = {sample.name for family in families for sample in family.samples}
    types = {family.name for family in families}
    if metric.kind == "summary":
        assert {f"{metric.name}_sum", f"{metric.name}_count"} <= names
    elif set(metric.labels) & {"task", "producer", "figure", "strategy"}:
        assert metric.name.removesuffix("_total") in types
    else:
        assert metric.name in names
