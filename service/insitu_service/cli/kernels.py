"""`insitu kernels`: what every kernel of the Hebbian layers in a checkpoint does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from insitu.analysis.kernels import KernelTable
    from insitu_service.kernels.moments import Moment

#: of the table, as in its heading; JSON adds `_per_step` to changes, theta and budget
_COLUMNS = (
    *("kernel", "activation_share", "change_mean", "change_largest", "moved_mean", "norm"),
    *("learning_rate", "gain", "importance", "protected", "theta", "budget"),
)


@click.command()
@click.argument(
    "checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="CHECKPOINT_OR_DIRECTORY",
)
@click.option("--layer", metavar="NAME", help="Only this layer, such as blocks.0.layer.")
@click.option(
    "--sort",
    type=click.Choice(_COLUMNS),
    default="kernel",
    show_default=True,
    help="Largest first, by this column.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Where to write pictures: kernels, how they changed since the oldest checkpoint beside "
    "this one, how far they went in each task, and which were active between checkpoints.",
)
def kernels(
    checkpoint: Path, layer: str | None, sort: str, as_json: bool, pictures: Path | None
) -> int:
    """Show the kernels of Hebbian layers: activity, change, norm, protection, rates.

    Of a checkpoint, or the newest good one in a directory. It is only read: no service is asked,
    and nothing is built or run. What strategy `kernel_plasticity` counts is there where it ran.
    """
    from insitu_service.kernels.moments import read_moment

    moment = read_moment(checkpoint).only(layer)
    column = _full(sort, moment)
    written = [] if pictures is None else _draw(moment, pictures, column)
    if as_json:
        click.echo(json.dumps(_as_dict(moment, column, written), indent=2))
        return 0
    click.echo(f"{moment.path}, step {moment.step:,}; changes, theta and budget are per step")
    for table in moment.tables.values():
        click.echo(f"\n{_text(table, column)}")
    for path in written:
        click.echo(f"wrote {path}", err=True)
    return 0


def _full(short: str, moment: Moment) -> str:
    """The name of a column as the library has it."""
    from insitu.analysis.kernels import COLUMNS
    from insitu.errors import OperatorError

    name = next(each for each in COLUMNS if each.removesuffix("_per_step") == short)
    if not any(name in table.columns for table in moment.tables.values()):
        raise OperatorError(
            f"{short} is not known in {moment.path}, which has no state of kernel_plasticity",
            allowed="kernel, norm, learning_rate",
        )
    return name


def _draw(moment: Moment, folder: Path, column: str) -> list[Path]:
    from insitu_service.kernels.moments import read_history
    from insitu_service.kernels.pictures import save_pictures

    moments, damaged = read_history(moment)
    for path in damaged:
        click.echo(f"{path} is damaged, and left out", err=True)
    written, left_out = save_pictures(moments, folder, column)
    for line in left_out:
        click.echo(line, err=True)
    return written


def _as_dict(moment: Moment, column: str, written: list[Path]) -> dict[str, Any]:
    from insitu_service.kernels.moments import ordered

    layers = []
    for table in moment.tables.values():
        plain = table.as_dict()
        plain["kernels"] = [plain["kernels"][each] for each in ordered(table, column)]
        layers.append(plain)
    return {
        "checkpoint": str(moment.path),
        "step": moment.step,
        "layers": layers,
        "pictures": [str(path) for path in written],
    }


def _text(table: KernelTable, column: str) -> str:
    from insitu_service.kernels.moments import ordered

    shape = "x".join(str(extent) for extent in table.shape[1:])
    lines = [f"{table.layer}: {table.shape[0]} kernels of {shape}, {table.updates:,} updates"]
    if table.mode is not None:
        lines[0] += (
            f"; mode {table.mode}, {table.tasks} tasks ended, {table.steps:,} steps and "
            f"{table.images:,} images since"
        )
    shown = [name for name in _COLUMNS if table.mode is not None or name in _ALWAYS]
    widths = [max(9, *(len(word) for word in name.split("_"))) for name in shown]
    first = [name.rpartition("_")[0] for name in shown]
    last = [name.rpartition("_")[2] for name in shown]
    for words in (first, last):
        if any(words):
            lines.append(" ".join(f"{w:>{n}}" for w, n in zip(words, widths, strict=True)))
    for kernel in (table.kernels[each] for each in ordered(table, column)):
        values = {name.removesuffix("_per_step"): value for name, value in vars(kernel).items()}
        cells = (f"{_cell(values[name]):>{n}}" for name, n in zip(shown, widths, strict=True))
        lines.append(" ".join(cells))
    return "\n".join(lines)


_ALWAYS = ("kernel", "norm", "learning_rate")


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
