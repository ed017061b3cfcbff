"""`insitu lr-range-test`: find a good learning rate on the live stream, with a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from insitu_service import exit_codes
from insitu_service.cli import options
from insitu_service.cli.client import connect
from insitu_service.commands import COMMANDS

_DEFAULTS = {argument.name: argument.default for argument in COMMANDS["lr_range_test"].arguments}


@click.command("lr-range-test")
@options.url
@options.token_file
@options.ca_file
@click.option(
    "--steps",
    type=int,
    default=_DEFAULTS["steps"],
    show_default=True,
    help="Steps from the smallest rate to the largest.",
)
@click.option(
    "--lowest",
    type=float,
    default=_DEFAULTS["lowest"],
    show_default=True,
    help="Rate of the first step.",
)
@click.option(
    "--highest",
    type=float,
    default=_DEFAULTS["highest"],
    show_default=True,
    help="Rate of the last step.",
)
@click.option(
    "--wait-seconds",
    type=click.FloatRange(0, 3000),
    default=_DEFAULTS["wait_seconds"],
    show_default=True,
    help="How long to wait for the batches.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture to write: loss by learning rate, with the suggestion.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the answer.",
)
def lr_range_test(
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    plot: Path | None,
    form: str,
    wait_seconds: float,
    **given: Any,
) -> int:
    """Find a good learning rate on the live stream (Smith 2017), and change nothing.

    The service puts the next batches aside, trains them at a rate that rises from --lowest to
    --highest, restores everything, and trains them as if nothing had been.
    """
    arguments = {**given, "wait_seconds": wait_seconds}
    # the batches are trained twice after they have come
    client = connect(url, token_file, ca_file)
    answer = client.control("lr_range_test", arguments, 600 + wait_seconds)
    if answer.get("state") == "pending":
        click.echo("the test goes on; it was not done in time", err=True)
        return exit_codes.UNREACHABLE
    found = answer["result"]
    if plot is not None:
        draw(found, plot)
    click.echo(json.dumps(found) if form == "json" else _text(found))
    return exit_codes.OK


def _text(found: Mapping[str, Any]) -> str:
    suggestion = found["suggestion"]
    if suggestion is None:
        return "the loss never fell at any of the rates; there is nothing to suggest"
    return (
        f"suggested learning rate: {suggestion:.3g} (the loss falls fastest at "
        f"{found['steepest']:.3g}, a tenth of the rate of the smallest loss is "
        f"{found['minimum_tenth']:.3g})"
    )


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Loss by rate as a picture; the form by the file's name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(found["rates"], found["losses"], alpha=0.3, label="loss before the update")
    axes.plot(found["rates"], found["smoothed"], label="smoothed")
    if found["suggestion"] is not None:
        text = f"suggested: {found['suggestion']:.3g}"
        axes.axvline(found["suggestion"], color="black", linestyle="--", label=text)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend()
    figure.savefig(path)
