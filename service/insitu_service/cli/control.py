"""`insitu checkpoint | drain | stop | evaluate`: made from the table of control commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from insitu_service import exit_codes
from insitu_service.cli import options
from insitu_service.cli.client import ServiceClient, connect
from insitu_service.commands import COMMANDS, Declaration


def control_commands() -> list[click.Command]:
    """One command of the command line for each that the service knows."""

    def make(declaration: Declaration) -> click.Command:
        @click.command(declaration.name.replace("_", "-"), help=_help(declaration))
        @options.url
        @options.token_file
        @options.ca_file
        @click.option(
            "--timeout",
            "wait_seconds",
            type=click.FloatRange(0, 3600),
            default=300.0,
            show_default=True,
            help="Seconds to wait; 0 only asks.",
        )
        def command(
            url: str,
            token_file: Path | None,
            ca_file: Path | None,
            wait_seconds: float,
            **given: Any,
        ) -> int:
            client = connect(url, token_file, ca_file)
            return _carry_out(declaration.name, client, wait_seconds, given)

        for argument in declaration.arguments:
            flag = argument.name.replace("_", "-")
            form = f"--{flag}/--no-{flag}" if argument.kind is bool else f"--{flag}"
            option = click.Option(
                [form], type=argument.kind, default=argument.default, help=argument.meaning
            )
            command.params.append(option)
        return command

    return [make(declaration) for name, declaration in COMMANDS.items() if name != "lr_range_test"]


def _help(declaration: Declaration) -> str:
    return f"{declaration.meaning} Prints {declaration.result}.".replace("`", "")


def _carry_out(name: str, client: ServiceClient, wait_seconds: float, given: dict[str, Any]) -> int:
    answer = client.control(name, given, wait_seconds)
    if answer.get("state") == "pending":
        click.echo(f"{name} goes on; it was not done within {wait_seconds:g} s", err=True)
        return exit_codes.OK if wait_seconds == 0 else exit_codes.UNREACHABLE
    click.echo(json.dumps(answer.get("result", {})))
    return exit_codes.OK
