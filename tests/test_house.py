"""The house: what is packaged, what a simulation node gets, who imports whom, how it is ordered."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "insitu": ROOT / "insitu",
    "insitu_producers": ROOT / "producers" / "insitu_producers",
    "insitu_service": ROOT / "service" / "insitu_service",
}
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "deploy", "insitu", "producers", "pyproject.toml", "service", "tests",
}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real wheel, as a release would build it."""
    directory = tmp_path_factory.mktemp("wheel")
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(directory)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return directory / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def simulation_node(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel and the base dependencies, and nothing else."""
    node = tmp_path_factory.mktemp("node")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(node)], check=True)
    (site,) = node.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    for distribution in ("numpy", "pyzmq", "msgpack"):
        found = importlib.metadata.distribution(distribution)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] != ".."}
        for top in tops:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    return node / "bin" / "python"


def run_on(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, env=environment, cwd="/"
    )


def package_files() -> set[str]:
    """Every file that belongs into the wheel, by its path there."""
    found = set()
    for name, directory in PACKAGES.items():
        for path in directory.rglob("*"):
            if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".typed"}:
                found.add(f"{name}/{path.relative_to(directory)}")
    return found


def test_the_wheel_holds_the_packages_their_pages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert package_files() <= names
    assert "insitu/docs/architecture.md" in names
    assert "insitu_service/demo/digits.yaml" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_a_simulation_node_needs_three_libraries(simulation_node: Path) -> None:
    code = """
import sys, importlib.util
for heavy in ("torch", "pydantic", "yaml", "click", "scipy"):
    assert importlib.util.find_spec(heavy) is None, heavy
import insitu, insitu.schema, insitu.errors, insitu.wire
import insitu_producers.sources.synthetic, insitu_producers.sources.reaction_diffusion
import numpy as np
from insitu_producers import Producer
with Producer("tcp://127.0.0.1:9", stream="s", producer_id="p", linger_seconds=0) as producer:
    producer.push({"x": np.zeros((2, 3), np.float32)})
    print(producer.stats().pending_rows)
"""
    done = run_on(simulation_node, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]


def test_without_its_extra_the_command_line_says_what_to_install(simulation_node: Path) -> None:
    done = run_on(simulation_node, "-c", "from insitu_service.cli import main; main()")
    assert done.returncode != 0
    assert "insitu[service]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_digits_without_scikit_learn_say_what_to_install(simulation_node: Path) -> None:
    done = run_on(
        simulation_node,
        "-m", "insitu_producers.sources.digits", "--endpoint", "tcp://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 2
    assert "insitu[demo]" in done.stderr


def test_importing_insitu_imports_nothing_heavy() -> None:
    code = "import sys, insitu, insitu_producers; print([m for m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("'torch'", "'pydantic'", "'sklearn'", "'matplotlib'", "'starlette'"):
        assert heavy not in done.stdout


def test_producers_know_the_wire_the_schema_and_the_errors_only() -> None:
    graph = grimp.build_graph("insitu", "insitu_producers")
    allowed = {"insitu.wire", "insitu.schema", "insitu.errors"}
    for module in graph.find_descendants("insitu_producers") | {"insitu_producers"}:
        for imported in graph.find_modules_directly_imported_by(module):
            part = ".".join(imported.split(".")[:2])
            assert imported.startswith("insitu_producers") or part in allowed, (module, imported)


def test_the_top_level_is_fixed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: " + listed.stderr.strip())
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} == TOP_LEVEL


def test_no_package_collides_with_a_published_name() -> None:
    """`producers`, `service` and `tests` are directories, never import names."""
    for directory in ("producers", "service", "tests"):
        assert not (ROOT / directory / "__init__.py").exists()


def test_every_directory_of_modules_is_a_package() -> None:
    for directory in PACKAGES.values():
        for path in directory.rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_no_junk_drawers() -> None:
    names = {path.stem for directory in PACKAGES.values() for path in directory.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


def test_files_stay_readable() -> None:
    """Most files under 250 lines; none above 500."""
    lengths = {
        path: len(path.read_text().splitlines())
        for directory in PACKAGES.values()
        for path in directory.rglob("*.py")
    }
    assert [path for path, lines in lengths.items() if lines > 500] == []
    assert sum(lines > 250 for lines in lengths.values()) <= 0.1 * len(lengths)


def test_constraints_name_one_version_each_of_everything_that_is_asked_for() -> None:
    pinned = {}
    for line in (ROOT / "deploy" / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version, line
            assert "+" not in version, f"{line}: the build is chosen at installation"
            pinned[name.lower().replace("_", "-")] = version
    required = importlib.metadata.requires("insitu") or []
    for requirement in required:
        name = requirement.split(";")[0].strip()
        for mark in "<>=![ ":
            name = name.split(mark)[0]
        if name != "insitu":
            assert name.lower().replace("_", "-") in pinned, requirement
