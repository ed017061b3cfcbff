"""Runs the tests of every mutation, each in a process of its own, and prints the outcomes as JSON.

    python -m mutations.gate [NAME ...]        from `tests/`

What belongs to others is imported once; every mutation then runs in a fork of that, which computed
nothing before, so no thread is lost in it. Of insitu nothing is imported before a mutation is made:
a name that was taken out of its module already would stay whole. An outcome is `killed` (a test
failed, as it must), `survived`, or what went wrong.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from mutations.base import Mutation, mutations

ROOT = Path(__file__).parent.parent.parent
#: libraries that most tests import, some of them for a second and more
_PRELOAD = (
    "torch._dynamo", "numpy", "scipy.stats", "hypothesis.extra.numpy", "pydantic", "yaml",
    "msgpack", "zmq", "xxhash", "safetensors.torch", "prometheus_client", "starlette.applications",
    "uvicorn", "anyio", "anyio._backends._asyncio", "httpx", "click", "rich.table",
)  # fmt: skip
#: for pytest: it may not rewrite the assertions of what is imported, which has none for it
_ARGUMENTS = (
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
_OUTCOMES = {0: "survived", 1: "killed"}


def outcomes(chosen: Mapping[str, Mutation]) -> dict[str, str]:
    """By name, as many at a time as there are processors; each in a child of this process."""
    found: dict[str, str] = {}
    running: dict[int, str] = {}
    for name, mutation in chosen.items():
        while len(running) >= (os.cpu_count() or 1):
            _reap(running, found)
        child = os.fork()
        if child == 0:
            os._exit(_run(mutation))
        running[child] = name
    while running:
        _reap(running, found)
    return found


def _reap(running: dict[int, str], found: dict[str, str]) -> None:
    child, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    found[running.pop(child)] = _OUTCOMES.get(code, f"broken: exit code {code}")


def _run(mutation: Mutation) -> int:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    if not os.environ.get("INSITU_MUTATION_TRACE"):
        os.dup2(silence, 2)
    reports = _Reports()
    try:
        mutation.apply()
        code = int(pytest.main([*_ARGUMENTS, str(ROOT / mutation.tests)], plugins=[reports]))
    except BaseException as error:  # such as a socket that a test left open when it failed
        print(repr(error), file=sys.stderr)
        code = 99
    return 1 if reports.failed else code


class _Reports:
    """A plugin of pytest's that hears whether a test failed, however the run ends."""

    failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed


def main(names: Sequence[str]) -> int:
    torch.set_num_threads(1)
    for name in _PRELOAD:
        importlib.import_module(name)
    gc.freeze()  # every pytest collects garbage at its end, and need not look at all this
    chosen = {name: m for name, m in mutations().items() if not names or name in names}
    os.chdir(ROOT)
    print(json.dumps(outcomes(chosen), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
