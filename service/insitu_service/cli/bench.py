"""`insitu bench`: run one of the benchmarks that come with the service."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import click


def benchmarks() -> dict[str, str]:
    """Name -> first line of the docstring, of every module of `bench` with a `main(argv)`.

    Read from the source, so that listing them imports nothing.
    """
    root = Path(__file__).parent.parent / "bench"
    found = {}
    for info in pkgutil.iter_modules([str(root)]):
        tree = ast.parse((root / f"{info.name}.py").read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[info.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str | None, arguments: tuple[str, ...]) -> int:
    """Run benchmark NAME with its ARGUMENTS; without a name, list them all."""
    known = benchmarks()
    if name is None or name in ("-h", "--help"):
        click.echo("insitu bench NAME [ARGUMENTS]...\n")
        for each, meaning in known.items():
            click.echo(f"  {each:20}{meaning}")
        return 0
    if name not in known:
        raise click.UsageError(f"there is no benchmark {name!r}; there are {', '.join(known)}")
    result = importlib.import_module(f"insitu_service.bench.{name}").main(list(arguments))
    return result if isinstance(result, int) else 0
