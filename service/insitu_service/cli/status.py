"""`insitu status`: how a running service is doing, once or continuously."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from insitu_service.cli import options
from insitu_service.cli.client import ServiceClient, connect


@click.command()
@options.url
@options.token_file
@options.ca_file
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole state as JSON.")
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks with --watch.",
)
def status(
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    watch: bool,
    as_json: bool,
    interval_seconds: float,
) -> None:
    """Show the state, rates, losses, buffer, memory and producers of a service."""
    client = connect(url, token_file, ca_file)
    if watch and not as_json and sys.stdout.isatty():
        _watch_table(client, interval_seconds)
        return
    _print(client, as_json)
    while watch:
        time.sleep(interval_seconds)
        _print(client, as_json)


def _print(client: ServiceClient, as_json: bool) -> None:
    from insitu_service.status import figures

    state = client.status()
    if as_json:
        click.echo(json.dumps(state))
        return
    for label, value in figures(state):
        click.echo(f"{label:12}{value}")


def _watch_table(client: ServiceClient, interval_seconds: float) -> None:
    from rich.live import Live

    from insitu_service.monitoring.progress import table

    with Live(table(client.status()), auto_refresh=False) as live:
        while True:
            time.sleep(interval_seconds)
            live.update(table(client.status()), refresh=True)
