"""Asking the log itself: `insitu log verify` about the books, `insitu replay` about the weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

from chaos.undisturbed import learned_differences
from daemon import Daemon
from forked import ForkedCommand

_COMMAND_SECONDS = 600.0


def log_flaws(disturbed: Daemon, directory: Path) -> list[str]:
    """What `insitu log verify` finds wrong with the log of a stopped service, and its checkpoint.

    Empty when every accepted row went into the weights once, or waits in the checkpoint.
    """
    log, checkpoints = _places(disturbed)
    answer = directory / "verify.json"
    words = ["log", "verify", str(log), "--checkpoint", str(checkpoints), "--json"]
    code = _run(words, answer, {})
    flaws: list[str] = json.loads(answer.read_text())["flaws"]
    assert (code == 0) == (not flaws), (code, flaws)
    return flaws


def differences_to_replay(
    disturbed: Daemon, directory: Path, environment: dict[str, str]
) -> list[str]:
    """Paths in the state of learning that one uninterrupted replay of the log has otherwise.

    The log must be whole: nothing of it was released.
    """
    log, checkpoints = _places(disturbed)
    output, config = directory / "replay", disturbed.directory / "run.yaml"
    words = ["replay", str(log), "--config", str(config), "--output", str(output)]
    code = _run(words, directory / "replay.log", environment)
    assert code == 0, (directory / "replay.log").read_text()[-2000:]
    (replayed,) = {path.parent for path in output.rglob("checkpoint-*") if path.is_dir()}
    return learned_differences(checkpoints, replayed)


def _places(daemon: Daemon) -> tuple[Path, Path]:
    """Its log, and its checkpoints."""
    return Path(daemon.config["log"]["directory"]), Path(daemon.config["checkpoint"]["directory"])


def _run(words: list[str], output: Path, environment: dict[str, str]) -> int:
    command = ForkedCommand(
        words,
        output=output,
        directory=output.parent,
        environment={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return command.wait(_COMMAND_SECONDS)
