"""What lies in deploy/ is true: rules fire, names exist, scripts run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from daemon import wait_for
from insitu.checkpoint import list_checkpoints
from insitu.config import Config
from insitu.metrics import METRICS
from insitu_service import exit_codes

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


def run(*command: str | Path, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [str(word) for word in command], capture_output=True, text=True, **how
    )


@pytest.mark.parametrize(
    "words",
    [("check", "config", "prometheus.yml"), ("test", "rules", "insitu.rules.test.yml")],
    ids=lambda words: words[0],
)
def test_prometheus_takes_them(need_program: Callable[[str], str], words: tuple[str, ...]) -> None:
    done = run(need_program("promtool"), *words, cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_name_metrics_that_exist() -> None:
    known = {metric.name for metric in METRICS}
    rules = yaml.safe_load((PROMETHEUS / "insitu.rules.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        named = set(re.findall(r"\binsitu_\w+", rule["expr"]))
        assert named <= known, (rule["alert"], named - known)


def test_every_rule_is_tested() -> None:
    rules = yaml.safe_load((PROMETHEUS / "insitu.rules.yml").read_text())["groups"][0]["rules"]
    tests = (PROMETHEUS / "insitu.rules.test.yml").read_text()
    assert [rule["alert"] for rule in rules if rule["alert"] not in tests] == []


def test_the_unit_gives_up_on_errors_that_a_restart_does_not_mend() -> None:
    unit = (DEPLOY / "systemd" / "insitu@.service").read_text()
    (codes,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    expected = {
        exit_codes.USAGE, exit_codes.NON_FINITE, exit_codes.CHECKPOINT, exit_codes.PLUGIN
    }  # fmt: skip
    assert {int(code) for code in codes.split()} == expected
    assert "\nRestart=on-failure\n" in unit


PLACES = {
    "systemd": "systemd/insitu@.service",
    "container": "container/Dockerfile",
    "kubernetes": "kubernetes/insitu.yaml",
    "slurm": "slurm/insitu.sbatch",
}
#: seconds that each leaves between asking to stop and killing
TIME_TO_STOP = {
    "systemd": r"^TimeoutStopSec=(\d+)",
    "container": r"docker stop -t (\d+)",
    "kubernetes": r"terminationGracePeriodSeconds: (\d+)",
    "slurm": r"--signal=B:USR1@(\d+)",
}


@pytest.mark.parametrize("place", PLACES)
def test_each_goes_on_where_it_was_and_has_the_time_to_stop(place: str) -> None:
    """The settings that each names exist, so that a new name of one is noticed here."""
    text = (DEPLOY / PLACES[place]).read_text()
    assert "--resume-if-any" in text
    pattern = r"""INSITU__(\w+?)__(\w+)(?:=|, value: )["']?([^\s"'}]*)"""
    found = {(section.lower(), name.lower()): value
             for section, name, value in re.findall(pattern, text)}  # fmt: skip
    for section, name in found:
        assert name in Config.model_fields[section].annotation.model_fields, (section, name)  # type: ignore[union-attr]
    assert found["log", "directory"].endswith("/log")
    assert found["checkpoint", "directory"].endswith("/checkpoints")
    (seconds,) = re.findall(TIME_TO_STOP[place], text, re.MULTILINE)
    drain = float(found["service", "drain_seconds"])
    assert drain + 60 <= float(seconds), "the checkpoint needs time too"


def test_kubernetes_gets_one_service_that_keeps_its_state() -> None:
    text = (DEPLOY / "kubernetes" / "insitu.yaml").read_text()
    pod, service = yaml.safe_load_all(text)
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert all(
        variable["value"].startswith(mounted["state"] + "/")
        for variable in container["env"]
        if variable["name"].endswith("DIRECTORY")
    )
    volumes = [volume["name"] for volume in pod["spec"]["template"]["spec"]["volumes"]]
    claims = [claim["metadata"]["name"] for claim in pod["spec"]["volumeClaimTemplates"]]
    assert sorted(mounted) == sorted(volumes + claims)
    assert service["spec"]["selector"] == pod["spec"]["template"]["metadata"]["labels"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(named)
    assert container["args"][0].startswith(mounted["run"])


def test_systemd_takes_the_unit(need_program: Callable[[str], str], tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "insitu@.service").read_text()
    program = "/opt/insitu/bin/insitu"
    assert f"ExecStart={program} " in unit
    (tmp_path / "insitu@.service").write_text(unit.replace(program, sys.executable))
    done = run(need_program("systemd-analyze"), "verify", tmp_path / "insitu@run.service")
    assert "insitu@" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["install", "slurm/insitu.sbatch"])
def test_scripts_parse(script: str) -> None:
    assert run("bash", "-n", DEPLOY / script).returncode == 0


PIP_ON_RECORD = """#!/bin/sh
# Stands for a package index that has no build of torch whose name holds $REFUSED.
echo "$*" >> "$RECORD"
case "$*" in *torch==*"$REFUSED"*) exit 1 ;; esac
"""


@pytest.mark.parametrize(
    ("build", "refused", "expected"),
    [
        ("cpu", "nothing", ["+cpu"]),
        ("cpu", "+cpu -c deploy/constraints.txt", ["+cpu", "+cpu", "plain"]),
        ("plain", "nothing", ["plain"]),
    ],
    ids=["CPU build at hand", "no CPU build anywhere", "GPU"],
)
def test_install_takes_the_right_build_of_torch(
    tmp_path: Path, build: str, refused: str, expected: list[str]
) -> None:
    """An index cannot be asked to lack a build, so this pip only records what it is asked."""
    (tmp_path / "bin").mkdir()
    python, record = tmp_path / "bin" / "python", tmp_path / "record"
    python.write_text(PIP_ON_RECORD)
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "RECORD": str(record), "REFUSED": refused}
    done = run(
        DEPLOY / "install",
        "no-python",
        tmp_path,
        cwd=ROOT,
        env={**environment, "INSITU_TORCH": build},
    )
    assert done.returncode == 0, done.stderr
    asked = [line for line in record.read_text().splitlines() if "torch==" in line]
    assert ["+cpu" if "+cpu" in line else "plain" for line in asked] == expected
    with_index = [line for line in asked if "download.pytorch.org/whl/cpu" in line]
    assert len(with_index) == expected.count("+cpu") // 2
    assert "-e .[all] -c deploy/constraints.txt" in record.read_text()


def test_install_refuses_a_build_that_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/true")
    environment = {"PATH": os.environ["PATH"], "INSITU_TORCH": "rocm"}
    done = run(DEPLOY / "install", "no-python", tmp_path, cwd=ROOT, env=environment)
    assert done.returncode == 2
    assert "allowed: cpu, plain" in done.stderr


CONFIG = """
stream: {names: [digits], fields: {x: {dtype: float32, shape: [64]}, y: {dtype: int64}}}
model: {name: mlp}
objective: {name: classify, options: {classes: 10}}
trainer: {threads: 1}
http: {port: 0}
"""


def job(tmp_path: Path, *command: str) -> subprocess.Popen[str]:
    """The Slurm script as Slurm would run it, with the `insitu` of this environment."""
    (tmp_path / "run.yaml").write_text(CONFIG)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("SLURM")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "INSITU_DIRECTORY": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    script = DEPLOY / "slurm" / "insitu.sbatch"
    return subprocess.Popen(
        ["bash", str(script), str(tmp_path / "run.yaml"), "--", *command],
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


PUSH = 'exec python -m insitu_producers.sources.digits --endpoint "$INSITU_ENDPOINT"'


def test_a_job_learns_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """A job that ends by itself leaves a checkpoint; the next resumes, and is stopped in time."""
    with job(tmp_path, "sh", "-c", PUSH) as first:
        output, errors = first.communicate(timeout=100)
        assert first.returncode == 0, errors + (tmp_path / "state" / "service.log").read_text()
    assert "1797 samples accepted" in output
    checkpoints = tmp_path / "state" / "checkpoints"
    (before,) = list_checkpoints(checkpoints)

    log = tmp_path / "state" / "service.log"
    with job(tmp_path, "sh", "-c", "exec sleep 1000") as second:
        wait_for(lambda: f"resumed from {before}" in log.read_text(), "the resumed service")
        wait_for(lambda: log.read_text().count("serving") >= 2, "the service to be ready")
        second.send_signal(signal.SIGUSR1)  # as Slurm does before the end
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 0, errors
    assert "stopping the service with a checkpoint" in errors
    assert log.read_text().count("stopped with exit code 0") == 2
