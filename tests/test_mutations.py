"""The mutation gate: with the essential term of a method taken out, one of its tests must fail.

The usual failure of this field is a method that does not do what its paper says while all tests
pass. So every method names what is essential to it in `tests/mutations/`, and is run without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from insitu.component import catalogue
from mutations.base import mutations
from mutations.control import CONTROL

TESTS = Path(__file__).parent
MUTATIONS = mutations()


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of those that are asked for in this run."""
    asked = [each.callspec.params for each in request.session.items if hasattr(each, "callspec")]
    names = [each["name"] for each in asked if each.get("name") in MUTATIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    run = subprocess.run(
        [sys.executable, "-m", "mutations.gate", *names],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(run.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(MUTATIONS))
def test_its_tests_notice(name: str, outcomes: dict[str, str]) -> None:
    if name == CONTROL:
        assert outcomes[name] == "survived"
    else:
        assert outcomes[name] == "killed", f"{MUTATIONS[name].tests} does not need {name!r}"


@pytest.mark.parametrize("kind", ["strategies", "memory"])
def test_every_method_has_a_mutation(kind: str) -> None:
    mutated = {mutation.target for mutation in MUTATIONS.values()}
    for name, component in catalogue(f"insitu.{kind}").items():
        modules = {cls.__module__ for cls in component.factory.__mro__}  # type: ignore[attr-defined]
        ours = {m for m in modules if m.startswith(f"insitu.{kind}.") and not m.endswith(".base")}
        files = {mutation.tests for mutation in MUTATIONS.values()}
        assert any(target.partition(":")[0] in ours for target in mutated), name
        # a method that is another one per layer is tested beside it
        assert any(name.removeprefix("layerwise_") in file for file in files), name
