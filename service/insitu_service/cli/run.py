"""From arguments to an exit code: the group of all commands, and what their errors turn into."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence

import click

from insitu.errors import InsituError, InternalError
from insitu_service import exit_codes
from insitu_service.cli import missing
from insitu_service.cli.bench import bench
from insitu_service.cli.config import config
from insitu_service.cli.control import control_commands
from insitu_service.cli.cost import cost
from insitu_service.cli.kernels import kernels
from insitu_service.cli.keys import keys
from insitu_service.cli.log import log
from insitu_service.cli.lr_range_test import lr_range_test
from insitu_service.cli.push import push
from insitu_service.cli.replay import replay
from insitu_service.cli.serve import serve
from insitu_service.cli.status import status
from insitu_service.cli.validate import validate
from insitu_service.cli.version import version

#: Errors that have an exit code of their own, by name, because importing their modules costs
#: seconds of torch. An operator's error that is not here is one of usage.
_CODES = {
    "ConfigError": exit_codes.USAGE,
    "PortError": exit_codes.RESOURCE,
    "EndpointError": exit_codes.RESOURCE,
    "UnreachableError": exit_codes.UNREACHABLE,
    "WaitTimeoutError": exit_codes.UNREACHABLE,
    "NonFiniteLoss": exit_codes.NON_FINITE,
    "CheckpointDamaged": exit_codes.CHECKPOINT,
    "NoGoodCheckpoint": exit_codes.CHECKPOINT,
    "CheckpointFailed": exit_codes.RESOURCE,
    "LogInUse": exit_codes.RESOURCE,
    "LogFailed": exit_codes.RESOURCE,
    "LogFull": exit_codes.RESOURCE,
    "LogDamaged": exit_codes.CHECKPOINT,
    "LogMismatch": exit_codes.CHECKPOINT,
    "PluginError": exit_codes.PLUGIN,
    "InternalError": exit_codes.INTERNAL,
}
_RESOURCE_ERRNOS = {
    errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.ENOENT, errno.ENOSPC,
    errno.ENOMEM, errno.EMFILE, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def insitu() -> None:
    """Streaming in-situ learning with episodic replay.

    Exit codes: 0 done, 1 fault in insitu, 2 usage or configuration, 3 port, file or memory,
    4 service unreachable, 5 loss not finite, 6 no good checkpoint, 7 error in your own model,
    8 a thread hung, 130 ended by a second signal.
    """


for command in (
    serve,
    replay,
    validate,
    config,
    status,
    *control_commands(),
    lr_range_test,
    push,
    keys,
    cost,
    kernels,
    log,
    bench,
    version,
):
    insitu.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Whatever goes wrong is told on stderr."""
    try:
        result = insitu.main(list(arguments), prog_name="insitu", standalone_mode=False)
        return result if isinstance(result, int) else exit_codes.OK
    except click.ClickException as error:
        error.show()
        return exit_codes.USAGE
    except (click.Abort, KeyboardInterrupt):
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # such as `insitu status | head`
        sys.stderr.close()
        return exit_codes.OK
    except ModuleNotFoundError as error:
        missing(error)
        raise
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> int:
    """Print an error for its reader; its exit code."""
    code = code_of(error)
    for_the_reader = isinstance(error, InsituError) and not isinstance(error, InternalError)
    if for_the_reader or code == exit_codes.RESOURCE:
        print(f"insitu: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print("insitu: this is a fault in insitu; please report it", file=sys.stderr)
    return code


def code_of(error: BaseException) -> int:
    """The exit code that an error ends a command with."""
    for ancestor in type(error).__mro__:
        if ancestor.__name__ in _CODES:
            return _CODES[ancestor.__name__]
    if isinstance(error, InsituError):
        return exit_codes.USAGE
    if isinstance(error, MemoryError):
        return exit_codes.RESOURCE
    if isinstance(error, OSError) and error.errno in _RESOURCE_ERRNOS:
        return exit_codes.RESOURCE
    return exit_codes.INTERNAL
