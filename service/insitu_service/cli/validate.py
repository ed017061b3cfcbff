"""`insitu validate`: is a configuration right? Starts nothing."""

from __future__ import annotations

import os
from pathlib import Path

import click

from insitu_service.cli import options


@click.command()
@options.run_file
@options.overrides
def validate(run: Path, overrides: tuple[str, ...]) -> None:
    """Check RUN.yaml as `serve` would, and name everything that is wrong with it.

    The model, objective and strategies are imported, because their options are checked too.
    """
    from insitu.config import load_config

    config = load_config(run, overrides, os.environ)
    strategies = ", ".join(each.name for each in config.strategies) or "no strategy"
    click.echo(
        f"{run} is valid: {config.model.name} learns to {config.objective.name} with {strategies}; "
        f"streams {', '.join(config.stream.names)} at {', '.join(config.stream.endpoints)}"
    )
