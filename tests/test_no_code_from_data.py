"""Nothing that comes from outside is ever run: no pickle, no eval, no shell in the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (ROOT / "insitu", ROOT / "service" / "insitu_service",
            ROOT / "producers" / "insitu_producers")  # fmt: skip

#: modules whose readers run what they read
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
#: functions that run what they are given, or read with such a module
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execvp", "pty.spawn",
    "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all",
    "subprocess.getoutput", "subprocess.getstatusoutput", "pandas.read_pickle", "code.interact",
}  # fmt: skip
LOADERS = {"BaseLoader", "CBaseLoader", "SafeLoader", "CSafeLoader"}

#: (file, what): why it may stand there
ALLOWED = {
    ("service/insitu_service/hooks/actions.py", "/bin/sh -c"): (
        "a line that the operator wrote in the configuration; the event comes on its stdin"
    ),
    ("insitu/component.py", "import_module"): "package.module:factory of the configuration",
    ("insitu/config/components.py", "import_module"): "the same, to check its options",
    ("insitu/strategies/third_factor.py", "import_module"): "a function of the configuration",
    ("service/insitu_service/hooks/actions.py", "import_module"): "a hook of the configuration",
    ("service/insitu_service/documentation/pages.py", "import_module"): "our own modules",
    ("service/insitu_service/cli/bench.py", "import_module"): "our own, from a fixed choice",
    ("producers/insitu_producers/sources/declared.py", "import_module"): "our own, from a list",
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def keyword(call: ast.Call, name: str) -> object:
    """A constant keyword argument; None when it is not there."""
    for each in call.keywords:
        if each.arg == name:
            return each.value.value if isinstance(each.value, ast.Constant) else dotted(each.value)
    return None


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of all that could run data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from ((node.lineno, f"import {name}") for name in sorted(names & MODULES))
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in MODULES:
                yield node.lineno, f"import {node.module}"
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in call_faults(node))
        elif isinstance(node, ast.Constant) and node.value == "/bin/sh":
            yield node.lineno, "/bin/sh -c"


def call_faults(call: ast.Call) -> Iterator[str]:
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    if name in CALLS:
        yield name
    if last == "import_module":
        yield "import_module"
    if name.endswith("torch.load") and keyword(call, "weights_only") is not True:
        yield "torch.load without weights_only"
    if last == "load" and keyword(call, "allow_pickle") is True:
        yield "allow_pickle"
    if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is not False:
        yield "np.load that does not say allow_pickle=False"
    if keyword(call, "shell") not in (None, False):
        yield "shell"
    loader = str(keyword(call, "Loader")).rpartition(".")[2]
    if name in ("yaml.load", "yaml.compose", "yaml.parse") and loader not in LOADERS:
        yield f"{name} with {loader}"


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in package.rglob("*.py"))


def test_no_file_can_run_what_it_reads() -> None:
    found = {}
    for path in sources():
        relative = path.relative_to(ROOT).as_posix()
        for line, what in faults(ast.parse(path.read_text(encoding="utf-8"))):
            found[relative, what] = line
    new = {place: line for place, line in found.items() if place not in ALLOWED}
    assert new == {}
    assert set(ALLOWED) <= set(found), "an exception that is needed no more"
    assert len(sources()) > 300


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle", "import pickle"),
        ("from dill import loads", "import dill"),
        ("torch.load(f)", "torch.load without weights_only"),
        ("torch.load(f, weights_only=False)", "torch.load without weights_only"),
        ("np.load(f, allow_pickle=True)", "allow_pickle"),
        ("np.load(f)", "np.load that does not say allow_pickle=False"),
        ("yaml.load(t, Loader=yaml.Loader)", "yaml.load with Loader"),
        ("yaml.load(t, yaml.FullLoader)", "yaml.load with None"),
        ("yaml.unsafe_load(t)", "yaml.unsafe_load"),
        ("subprocess.run(x, shell=True)", "shell"),
        ("run(x, shell=flag)", "shell"),
        ("os.system(x)", "os.system"),
        ("x = eval(y)", "eval"),
        ("exec(y)", "exec"),
        ("Popen(['/bin/sh', '-c', x])", "/bin/sh -c"),
        ("importlib.import_module(x)", "import_module"),
    ],
)
def test_the_walk_finds_each(code: str, what: str) -> None:
    assert what in [found for _, found in faults(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()", "re.compile(x)", "torch.compile(m)", "torch.load(f, weights_only=True)",
        "np.load(f, allow_pickle=False)", "yaml.load(t, Loader=yaml.SafeLoader)", "yaml.dump(x)",
        "run(x, shell=False)",
    ],
)  # fmt: skip
def test_the_walk_leaves_the_rest_alone(code: str) -> None:
    assert list(faults(ast.parse(code))) == []
