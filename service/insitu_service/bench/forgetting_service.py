"""One run through a real service: `insitu serve`, and a producer program of its own."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from insitu.config.document import written
from insitu.errors import InternalError, OperatorError
from insitu_producers.sources.task_stream import TaskStream
from insitu_service.bench.forgetting_result import Moment, RunResult
from insitu_service.bench.forgetting_setup import Setup, configuration
from insitu_service.bench.forgetting_variants import Variant
from insitu_service.demo.child_process import ChildProcess
from insitu_service.demo.interruption import Interruption
from insitu_service.demo.scenario import Scenario
from insitu_service.demo.scenario import Variant as ServiceVariant
from insitu_service.demo.service_process import ServiceProcess

_LOOK_SECONDS = 0.1


def run_through_service(setup: Setup, variant: Variant, stream: TaskStream, seed: int) -> RunResult:
    """Start both, wait until all is trained, and read the service's own matrix.

    Raises:
        OperatorError: one of them failed, with the end of its log; or the setup asks for
            `probes_between`, which a service does not know.
    """
    if setup.probes_between is not None:
        raise OperatorError(
            f"--probes-between {setup.probes_between} with --through-service",
            consequence="a service measures all held-out samples each time",
            remedy="leave one of the two out",
        )
    with (
        tempfile.TemporaryDirectory(prefix="insitu-bench-") as place,
        Interruption() as interruption,
    ):
        directory = Path(place)
        config_path = directory / "service.yaml"
        config_path.write_text(written(configuration(setup, variant, stream, seed)))
        scenario = _scenario(setup, variant, stream, config_path)
        with ServiceProcess(scenario, ServiceVariant("bench"), directory, interruption) as service:
            service.start()
            service.wait_ready()
            began = time.perf_counter()
            _push_all(scenario, service, seed, directory / "producer.log", interruption)
            service.drain()
            seconds = time.perf_counter() - began
            return _result(variant, seed, service.status(), seconds)


def _scenario(setup: Setup, variant: Variant, stream: TaskStream, config_path: Path) -> Scenario:
    """The service's configuration (a path from the root stays as it is) and its producer."""
    module, words = setup.stream, []
    if "/" in setup.stream:
        module, (images, _, kind) = "images", setup.stream.partition("/")
        words += ["--set", images, "--scenario", kind]
    for name, value in setup.stream_options.items():
        words += ["--option", f"{name}={_absolute(name, value)}"]
    if variant.joint:
        words.append("--joint")
    words += ["--stream", stream.name, "--timeout", "600"]
    return Scenario(
        name=stream.name,
        title=variant.name,
        task_word="task",
        config=str(config_path),
        source=f"insitu_producers.sources.{module}",
        arguments=tuple(words),
        samples=stream.training_samples,
    )


def _absolute(name: str, value: str) -> str:
    """Paths hold from here, the producer runs elsewhere."""
    return str(Path(value).resolve()) if name in ("data", "cache") else value


def _push_all(
    scenario: Scenario,
    service: ServiceProcess,
    seed: int,
    log_path: Path,
    interruption: Interruption,
) -> None:
    command = scenario.source_command([service.endpoint], seed)
    with ChildProcess(command, log_path, interruption) as producer:
        producer.start()
        while producer.exit_code is None:
            service.check_alive()
            time.sleep(_LOOK_SECONDS)  # between two looks
        if producer.exit_code != 0:
            raise OperatorError(
                f"the producer ended with exit code {producer.exit_code}: {producer.output()}"
            )


def _result(variant: Variant, seed: int, status: dict[str, Any], seconds: float) -> RunResult:
    """From the status; its matrix tells of the ends of tasks only, so that is the whole curve."""
    found = status["evaluation"]
    if found is None:
        raise InternalError("the service measured nothing", allowed="one matrix row a task")
    arrived = {task["name"]: task["samples"] for task in status["tasks"]}
    curve: list[Moment] = []
    samples, begun = 0, dict[str, None]()
    for ended, row in zip(found["ended"], found["matrix"], strict=True):
        samples += arrived.get(ended, 0)
        begun[ended] = None
        measured = zip(found["tasks"], row, strict=True)
        results = {task: value for task, value in measured if value is not None}
        curve.append(Moment(samples, results, ended, tuple(begun)))
    return RunResult(
        variant.name,
        seed,
        found["metric"],
        found["higher_is_better"],
        tuple(curve),
        status["stream"]["trained_samples"],
        status["trainer"]["step"],
        seconds,
        found["figures"],
        status["trainer"]["skipped_steps"],
    )
