"""`insitu serve`: run the service until it is told to stop."""

from __future__ import annotations

import os
from pathlib import Path

import click

from insitu_service.cli import options


@click.command()
@options.run_file
@click.option("--resume", is_flag=True, help="Continue from the newest good checkpoint.")
@click.option(
    "--resume-if-any",
    is_flag=True,
    help="Continue as --resume does where there is something to continue, else begin: for whoever "
    "starts the service again and again.",
)
@options.overrides
def serve(run: Path, resume: bool, resume_if_any: bool, overrides: tuple[str, ...]) -> int:
    """Run the service that RUN.yaml describes.

    SIGTERM or Ctrl-C stops: no new samples, train what is pending, checkpoint, exit 0. A second
    one quits at once. SIGUSR1 checkpoints, SIGHUP reads the configuration again, SIGQUIT prints
    all stacks.
    """
    from insitu_service.learning.compiled_code import compile_in_private, keep_compiled

    compile_in_private()
    from insitu.config import Config, load_config

    def read() -> Config:
        return load_config(run, overrides, os.environ)

    config = read()
    if config.trainer.compile and config.checkpoint.directory is not None:
        keep_compiled(config.checkpoint.directory.absolute())
    from insitu_service.recording.traces import leaves_traces
    from insitu_service.serving import serve

    resume = resume or (resume_if_any and leaves_traces(config))
    return serve(config, resume=resume, reread=read)
