"""`insitu replay`: train other configurations on the very stream that a log holds."""

from __future__ import annotations

import os
from pathlib import Path

import click

from insitu_service import exit_codes
from insitu_service.cli import options


@click.command()
@click.argument("log", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--config",
    "configs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    metavar="RUN.yaml",
    help="A configuration to train; give it several times to compare.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("replay"),
    show_default=True,
    metavar="DIRECTORY",
    help="Where checkpoints, replay.json and replay.png go.",
)
@click.option(
    "--timing",
    type=click.Choice(["full", "original"]),
    default="full",
    show_default=True,
    help="As fast as it learns, or with the pauses that there were.",
)
@click.option("--speed", type=float, default=1.0, show_default=True, help="Times the original.")
@click.option("--from", "first", type=int, default=0, help="The first record to play.")
@click.option("--to", "last", type=int, default=None, help="The last record to play.")
@options.overrides
def replay(
    log: Path,
    configs: tuple[Path, ...],
    output: Path,
    timing: str,
    speed: float,
    first: int,
    last: int | None,
    overrides: tuple[str, ...],
) -> int:
    """Train configurations on the stream in the directory LOG, and compare them.

    The log is only read; a service may be writing it. Hooks do not run, nothing is dropped, and
    each configuration keeps its checkpoints in a directory of its own. With the fixed pace and
    the configuration of the service that wrote the log, the weights are the same, bit by bit.
    """
    from rich.console import Console

    from insitu.config import load_config
    from insitu.errors import OperatorError
    from insitu_service.monitoring.logs import configure_logs
    from insitu_service.replay.replaying import replay as run
    from insitu_service.replay.report import draw, save, table

    if speed <= 0:
        raise OperatorError(f"--speed is {speed}", allowed="more than 0")
    configure_logs("warning", "auto")
    results = []
    for name, path in _names(configs).items():
        config = load_config(path, overrides, os.environ)
        pace = speed if timing == "original" else None
        results.append(run(name, config, log, output, first=first, last=last, speed=pace))
        click.echo(f"{name}: {results[-1].steps:,} steps in {results[-1].seconds:.1f} s", err=True)
    Console(width=140 if not os.isatty(1) else None).print(table(results))
    click.echo(f"written: {save(results, output)}, {draw(results, output)}")
    return exit_codes.OK


def _names(configs: tuple[Path, ...]) -> dict[str, Path]:
    """The configurations by the names of their files, made different where they are not."""
    names: dict[str, Path] = {}
    for path in configs:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}-{number}", number + 1
        names[name] = path
    return names
