"""`insitu version`: which versions are installed."""

from __future__ import annotations

import importlib.metadata
import platform

import click

import insitu


@click.command()
@click.option("--verbose", "-v", is_flag=True, help="The versions of what it stands on, too.")
def version(verbose: bool) -> None:
    """Print the version of insitu."""
    click.echo(f"insitu {insitu.__version__}")
    if not verbose:
        return
    click.echo(f"python {platform.python_version()} on {platform.platform()}")
    for name in ("torch", "numpy", "pyzmq", "msgpack", "pydantic", "safetensors", "xxhash"):
        try:
            click.echo(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            click.echo(f"{name} is not installed")
