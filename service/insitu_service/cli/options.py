"""Options that several commands share, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

run_file: Decorator = click.argument("run", type=click.Path(path_type=Path), metavar="RUN.yaml")

overrides: Decorator = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting, such as buffer.capacity_samples=64 or strategies.0.name=online_ewc; "
    "the value is read as YAML. Wins over variables like INSITU__BUFFER__CAPACITY_SAMPLES, "
    "which win over the file.",
)

url: Decorator = click.option(
    "--url",
    default="http://127.0.0.1:9100",
    envvar="INSITU_URL",
    show_default=True,
    show_envvar=True,
    help="Where the service answers.",
)

token_file: Decorator = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="INSITU_TOKEN_FILE",
    show_envvar=True,
    help="File with the secret that the service asks for; else it is taken from INSITU_TOKEN.",
)

ca_file: Decorator = click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    envvar="INSITU_CA_FILE",
    show_envvar=True,
    help="Certificates (PEM) to trust for https, beside those of the system.",
)
