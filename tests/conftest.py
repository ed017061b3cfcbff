"""What all tests share: real programs found or asked for, and examples that need an extra."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
from hypothesis import settings

# Two noisy cores: a deadline per example would test the machine, not the code.
settings.register_profile("insitu", deadline=None, print_blob=True)
settings.load_profile("insitu")


@pytest.fixture(scope="session")
def need_program() -> Callable[[str], str]:
    """`need_program("promtool")` is its path; without it the test skips, and in CI it fails."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None and os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed; in CI it must be (see .ci/run)")
        if path is None:
            package = {"promtool": "prometheus", "systemd-analyze": "systemd"}.get(name, name)
            pytest.skip(f"{name} is not installed; on Debian: apt-get install {package}")
        return path

    return find
