"""The command line: `insitu serve | validate | config | status | ...`.

Nothing heavy is imported here, so `insitu version` and `--help` answer at once, and a machine
that has only the producer client gets a sentence instead of a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_EXTRA = "insitu: this needs {what}, which is not installed; pip install 'insitu[{extra}]'"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code (see `insitu_service.exit_codes`)."""
    try:
        from insitu_service.cli.run import run
    except ModuleNotFoundError as error:
        missing(error)
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def missing(error: ModuleNotFoundError) -> None:
    """Say which extra brings a missing package, and leave; a missing file of ours is raised."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "insitu", "insitu_service", "insitu_producers"):
        raise error
    extra = "demo" if name in ("sklearn", "matplotlib") else "service"
    print(_EXTRA.format(what=name, extra=extra), file=sys.stderr)
    sys.exit(2)
