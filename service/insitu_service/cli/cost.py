"""`insitu cost`: parameters and floating-point operations of the model of a configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from insitu_service.cli import options

if TYPE_CHECKING:
    from insitu.analysis import ModelCost
    from insitu.config import Config


@click.command()
@options.run_file
@options.overrides
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the answer.",
)
def cost(run: Path, overrides: tuple[str, ...], form: str) -> int:
    """Show what one sample costs forward and backward, layer by layer.

    Matrix products, convolutions and recurrent layers are counted, a multiplication and an
    addition as two operations. A training step costs both passes for every sample.
    """
    from insitu.config import load_config

    found = _count(load_config(run, overrides, os.environ))
    if form == "json":
        click.echo(json.dumps(found.as_dict(), indent=2))
        return 0
    click.echo(_table(found))
    return 0


def _count(config: Config) -> ModelCost:
    import torch

    from insitu.analysis import model_cost
    from insitu.batch import Batch
    from insitu_service.learning.building import build_network

    objective, model = build_network(config)
    fields = {
        field.name: torch.zeros((1, *field.shape), dtype=getattr(torch, field.dtype))
        for field in config.stream.as_schema().fields
    }
    return model_cost(model, lambda: objective.predict(model, Batch.of(fields)))


def _table(found: ModelCost) -> str:
    rows = [
        (each.name or "(model)", each.kind, each.parameters, each.flops, each.backward_flops)
        for each in found.layers
    ]
    rows.append(("total", "", found.parameters, found.flops, found.backward_flops))
    width = max(len(name) for name, *_ in rows)
    kinds = max(len("kind"), *(len(kind) for _, kind, *_ in rows))
    counts = f"{'parameters':>14}  {'forward':>18}  {'backward':>18}"
    lines = [f"{'layer':{width}}  {'kind':{kinds}}  {counts}"]
    lines += [
        f"{name:{width}}  {kind:{kinds}}  {parameters:>14,}  {forward:>18,}  {backward:>18,}"
        for name, kind, parameters, forward, backward in rows
    ]
    return "\n".join(lines)
