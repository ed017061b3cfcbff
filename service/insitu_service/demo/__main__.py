"""`make demo`: two streams of real data, each into two real services, and what each one kept.

For every scenario two services start, one without strategies and one with replay and EWC. One
producer program pushes the same stream to both. When it has ended, the services train what is
pending, and their own evaluation matrices make the table and the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from insitu.errors import InsituError, OperatorError
from insitu_service.demo.child_process import ChildProcess
from insitu_service.demo.display import ProgressDisplay, outcome_table
from insitu_service.demo.figure import Results, save_figure
from insitu_service.demo.interruption import Interruption
from insitu_service.demo.outcome import Outcome, read_outcome
from insitu_service.demo.scenario import SCENARIOS, VARIANTS, Scenario
from insitu_service.demo.service_process import ServiceProcess

_LOOK_SECONDS = 0.5


def play(
    scenario: Scenario, console: Console, seed: int, interruption: Interruption
) -> dict[str, Outcome]:
    """Run one scenario; the outcome by variant."""
    console.rule(f"[bold]{scenario.name}[/bold]", align="left")
    console.print(scenario.title, highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="insitu-") as directory, ExitStack() as stack:
        services = {}
        for index, variant in enumerate(VARIANTS):
            place = Path(directory) / str(index)
            place.mkdir()
            service = ServiceProcess(scenario, variant, place, interruption)
            services[variant.name] = stack.enter_context(service)
            service.start()
        for name, service in services.items():
            service.wait_ready()
            console.print(f"  {name}: {service.url}/metrics while it runs", highlight=False)
        endpoints = [service.endpoint for service in services.values()]
        command = scenario.source_command(endpoints, seed)
        log_path = Path(directory) / "producer.log"
        producer = stack.enter_context(ChildProcess(command, log_path, interruption))
        producer.start()
        watch(scenario, producer, services, console)
        outcomes = {}
        for name, service in services.items():
            service.drain()
            outcomes[name] = read_outcome(service.status()["evaluation"])
    console.print(outcome_table(scenario, outcomes))
    return outcomes


def watch(
    scenario: Scenario,
    producer: ChildProcess,
    services: Mapping[str, ServiceProcess],
    console: Console,
) -> None:
    """Show how the services learn until the producer has pushed all and ended."""
    with ProgressDisplay(console, scenario) as display:
        running = True
        while running:
            running = producer.exit_code is None
            display.show({name: service.status() for name, service in services.items()})
            time.sleep(_LOOK_SECONDS if running else 0.0)
    output = producer.output().strip()
    if producer.exit_code != 0:
        raise OperatorError(f"the producer ended with exit code {producer.exit_code}: {output}")
    console.print(f"  producer: {output} per service", highlight=False)


def save_results(results: Results, path: Path) -> None:
    """The figures behind table and picture, as JSON."""
    plain = {
        scenario.name: {variant: asdict(outcome) for variant, outcome in outcomes.items()}
        for scenario, outcomes in results.items()
    }
    path.write_text(json.dumps(plain, indent=2) + "\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m insitu_service.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="directory")
    parser.add_argument("--seed", type=int, default=0, help="of the producers' random choices")
    parser.add_argument(
        "--only", choices=[s.name for s in SCENARIOS], help="one scenario instead of all"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    console = Console()
    start = time.monotonic()
    chosen = [s for s in SCENARIOS if arguments.only in (None, s.name)]
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        with Interruption() as interruption:
            results = {
                scenario: play(scenario, console, arguments.seed, interruption)
                for scenario in chosen
            }
        save_figure(results, arguments.output / "demo.png")
        save_results(results, arguments.output / "results.json")
    except KeyboardInterrupt:
        console.print("interrupted; all processes of the demo are ended")
        return 130
    except InsituError as error:
        console.print(str(error), markup=False, style="red")
        return 1
    console.print(
        f"{time.monotonic() - start:.0f} s; picture: {arguments.output / 'demo.png'}, "
        f"figures: {arguments.output / 'results.json'}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
