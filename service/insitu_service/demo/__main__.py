"""`make demo`: two streams of real data, each into two real services, and what each one kept.

For every scenario two services start, one without strategies and one with replay and EWC. One
producer program pushes the same stream to both. When it has ended, the services train what is
pending, and their own evaluation matrices make the table and the picture.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from rich.console import Console

from insitu.errors import InsituError, OperatorError
from insitu_service.demo.display import ProgressDisplay, outcome_table
from insitu_service.demo.figure import Results, save_figure
from insitu_service.demo.outcome import Outcome, read_outcome
from insitu_service.demo.scenario import SCENARIOS, VARIANTS, Scenario
from insitu_service.demo.service_process import ServiceProcess

_LOOK_SECONDS = 0.5


def play(scenario: Scenario, console: Console, seed: int) -> dict[str, Outcome]:
    """Run one scenario; the outcome by variant."""
    console.rule(f"[bold]{scenario.name}[/bold]", align="left")
    console.print(scenario.title)
    with tempfile.TemporaryDirectory(prefix="insitu-") as directory, ExitStack() as stack:
        services = {
            variant.name: stack.enter_context(
                ServiceProcess(scenario, variant, Path(directory) / str(index))
            )
            for index, variant in enumerate(VARIANTS)
        }
        for name, service in services.items():
            service.wait_ready()
            console.print(f"  {name}: [link]{service.url}/metrics[/link] while it runs")
        push_and_watch(scenario, services, console, seed)
        outcomes = {}
        for name, service in services.items():
            service.drain()
            outcomes[name] = read_outcome(service.status()["evaluation"])
    console.print(outcome_table(scenario, outcomes))
    return outcomes


def push_and_watch(
    scenario: Scenario, services: Mapping[str, ServiceProcess], console: Console, seed: int
) -> None:
    """Run the producer program to its end and show how the services learn."""
    endpoints = [service.endpoint for service in services.values()]
    command = scenario.source_command(endpoints, seed)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as producer:
        try:
            with ProgressDisplay(console, scenario) as display:
                while producer.poll() is None:
                    display.show({name: s.status() for name, s in services.items()})
                    time.sleep(_LOOK_SECONDS)
                display.show({name: s.status() for name, s in services.items()})
        finally:
            producer.terminate()
        output = producer.communicate()[0].strip()
    if producer.returncode != 0:
        raise OperatorError(f"the producer ended with exit code {producer.returncode}: {output}")
    console.print(f"  producer: {output} per service", highlight=False)


def save_results(results: Results, path: Path) -> None:
    """The figures behind table and picture, as JSON."""
    plain = {
        scenario.name: {variant: asdict(outcome) for variant, outcome in outcomes.items()}
        for scenario, outcomes in results.items()
    }
    path.write_text(json.dumps(plain, indent=2) + "\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


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
    signal.signal(signal.SIGTERM, _interrupt)
    start = time.monotonic()
    chosen = [s for s in SCENARIOS if arguments.only in (None, s.name)]
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        results = {scenario: play(scenario, console, arguments.seed) for scenario in chosen}
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
        f"figures: {arguments.output / 'results.json'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
