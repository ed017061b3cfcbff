"""`insitu config`: the effective configuration, and the schema of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from insitu_service.cli import options


@click.group()
def config() -> None:
    """Show the configuration, or the schema of its file."""


@config.command()
@options.run_file
@options.overrides
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml")
def show(run: Path, overrides: tuple[str, ...], form: str) -> None:
    """Print what `serve` would use: the file, the environment, --set and all defaults."""
    from insitu.config import effective, load_config
    from insitu.config.document import written

    tree = effective(load_config(run, overrides, os.environ))
    if form == "json":
        click.echo(json.dumps(tree, indent=2))
    else:
        click.echo(written(tree, flow=None), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON schema of the file, for editors that check while you type."""
    from insitu.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
