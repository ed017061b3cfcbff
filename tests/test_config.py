"""The configuration: what it accepts, and that it names everything it does not."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from insitu.config import (
    Config,
    ConfigError,
    Problem,
    check_config,
    effective,
    json_schema,
    load_config,
    read_token,
)
from insitu.config.document import parse, scalar, written
from insitu.config.override import PREFIX
from insitu.config.service import HookSection
from insitu.errors import OperatorError
from insitu.hooks import EVENTS

MINIMAL: dict[str, Any] = {
    "stream": {
        "names": ["digits"],
        "fields": {
            "x": {"dtype": "float32", "shape": [64]},
            "y": {"dtype": "int64", "minimum": 0, "maximum": 9},
        },
    },
    "model": {"name": "mlp", "options": {"hidden": [8]}},
    "objective": {"name": "classify", "options": {"classes": 10}},
}


def tree(**changes: Any) -> dict[str, Any]:
    """The minimal configuration with values put at paths like `buffer__capacity_samples`."""
    made = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *parents, last = path.split("__")
        here = made
        for step in parents:
            here = here.setdefault(step, {})
        here[last] = value
    return made


def problems(made: dict[str, Any]) -> dict[str, str]:
    """Path -> the line of the problem there."""
    with pytest.raises(ConfigError) as caught:
        check_config(made)
    return {".".join(map(str, each.path)): str(each) for each in caught.value.problems}


@pytest.fixture
def run_file(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(made: dict[str, Any]) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(made))
        return path

    return write


def test_the_minimal_file_has_defaults() -> None:
    config = check_config(MINIMAL)
    assert config.buffer.capacity_samples == 4096
    assert config.trainer.batch_size == 32
    assert config.stream.as_schema().row_bytes == 64 * 4 + 16
    assert config.strategies == ()


def test_it_cannot_be_changed() -> None:
    config = check_config(MINIMAL)
    with pytest.raises(ValidationError):
        config.buffer.capacity_samples = 1  # type: ignore[misc]


def test_all_problems_come_at_once_with_path_value_and_hint() -> None:
    made = tree(
        buffer={"capacity_sample": 10, "policy": "fifi"},
        trainer={"batch_size": 0, "normalise": {"x": "runing"}},
        bufer={},
        http={"port": 70000},
        hooks=[{"on": "step"}, {"on": "task_ended", "shell": "true"}],
    )
    made["model"] = {"name": "mlq"}
    made["objective"]["options"] = {"clases": 10}
    found = problems(made)
    assert "did you mean capacity_samples?" in found["buffer.capacity_sample"]
    assert "is 'fifi'" in found["buffer.policy"]
    assert "did you mean fifo?" in found["buffer.policy"]
    assert "is 0; allowed: 1 or more" in found["trainer.batch_size"]
    assert "did you mean running?" in found["trainer.normalise.x"]
    assert "did you mean buffer?" in found["bufer"]
    assert "allowed: 65535 or less" in found["http.port"]
    assert "exactly one of shell, python and post" in found["hooks.0"]
    assert "did you mean task_end?" in found["hooks.1.on"]
    assert "did you mean mlp?" in found["model.name"]
    assert "did you mean classes?" in found["objective.options.clases"]
    assert "is missing" in found["objective.options.classes"]
    assert len(found) == 11


def test_missing_sections_are_named() -> None:
    assert set(problems({})) == {"stream", "model", "objective"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("buffer__capacity_samples", "64"),
        ("buffer__capacity_samples", True),
        ("buffer__capacity_samples", 6.5),
        ("pace__samples_per_insert", float("nan")),
        ("trainer__compile", 1),
        ("stream__names", []),
        ("stream__names", "digits"),
        ("service__name", "a b"),
        ("stream__endpoints", ["udp://127.0.0.1:1"]),
        ("trainer__device", "gpu"),
        ("stream__max_producers", None),
    ],
)
def test_types_are_strict(path: str, value: Any) -> None:
    place = path.replace("__", ".")
    assert any(name.startswith(place) for name in problems(tree(**{path: value})))


CLOSED = {"strategies": [{"name": "online_ewc"}]}


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"trainer__batch_size": 5000}, "trainer.batch_size", "no batch would ever be full"),
        ({"buffer": {"policy": "firo", "watermark_samples": 4096}}, "buffer.watermark_samples", ""),
        ({"buffer": {"policy": "firo", "watermark_samples": 4090}}, "buffer.watermark_samples", ""),
        ({"buffer__watermark_samples": 5}, "buffer.watermark_samples", "fifo"),
        ({"pace__samples_per_insert": 2.0}, "pace.samples_per_insert", "every sample once"),
        ({"stream__names": ["a", "b", "a"]}, "stream.names.2", "second time"),
        ({"stream__endpoints": ["tcp://*:5555"]}, "stream.endpoints.0", "not encrypted"),
        ({"stream__endpoints": ["tcp://127.0.0.1:99999"]}, "stream.endpoints.0", "99999"),
        ({"stream__endpoints": ["ipc:///no/where/x"]}, "stream.endpoints.0", "does not exist"),
        ({"stream__endpoints": [f"ipc:///{'x' * 120}"]}, "stream.endpoints.0", "too long"),
        ({"stream__max_batch_bytes": 1024, "stream__fields__x__shape": [500]},
         "stream.max_batch_bytes", "one sample has"),
        ({"stream__fields__x__shape": [0]}, "stream.fields.x.shape.0", "1 or more"),
        ({"stream__fields__y__maximum": 10}, "stream.fields.y.maximum", "labels from 0 to 9"),
        ({"stream__fields__y__maximum": -1}, "stream.fields.y", "above maximum"),
        ({"stream__fields__z": {"dtype": "uint8", "maximum": 256}},
         "stream.fields.z.maximum", "0 to 255"),
        ({"stream__fields__z": {"dtype": "bool", "maximum": 1}}, "stream.fields.z", "bool"),
        ({"stream__fields__9z": {"dtype": "bool"}}, "stream.fields.9z", ""),
        ({"objective__options__input": "q"}, "objective", "q"),
        ({"trainer__normalise": {"z": "running"}}, "trainer.normalise.z", "no field"),
        ({"trainer__non_finite": "rollback"}, "trainer.non_finite", "no checkpoints"),
        ({"http__host": "0.0.0.0"}, "http.host", "other machines"),
        ({"http__token_file": "/no/such/file"}, "http.token_file", "cannot be read"),
        ({"checkpoint__directory": "/no/where/checkpoints"}, "checkpoint.directory", "mkdir -p"),
        ({"checkpoint__directory": "/dev/null"}, "checkpoint.directory", "not a directory"),
        ({"buffer__capacity_samples": 1 << 50}, "buffer.capacity_samples", "this machine has"),
        ({"optimizer": {"name": "Adamm"}}, "optimizer", "AdamW"),
        ({"optimizer": {"options": {"lrr": 1.0}}}, "optimizer", "lrr"),
        ({"schedule": {"name": "StepLR"}}, "schedule", "step_size"),
        ({"strategies": [{"name": "replay"}]}, "strategies.0.memory", "is missing"),
        ({"strategies": [{"name": "online_ewc", "memory": {"capacity_samples": 3}}]},
         "strategies.0.memory", "uses none"),
        ({"strategies": [{"name": "replay", "memory": {"capacity_samples": 100},
                          "options": {"augment": {"fields": ["w"], "flip": True}}}]},
         "strategies.0.options", "augment.fields names 'w'"),
        ({"strategies": [{"name": "online_ewc", "options": {"stength": 1.0}}]},
         "strategies.0.options.stength", "no such setting"),
        ({"strategies": [{"name": "online_ewc"}, {"name": "online_ewc"}]},
         "strategies.1.name", "second time"),
        ({"hooks": [{"on": "start", "shell": "x", "every": 2}]}, "hooks.0.every", "comes once"),
        ({"hooks": [{"on": "start", "python": "nowhere:f"}]}, "hooks.0.python", "imported"),
        ({"hooks": [{"on": "start", "python": "math:pi"}]}, "hooks.0.python", "called"),
        ({"model__name": "nowhere:Model"}, "model.name", "cannot be imported"),
        ({"model__options": {"hidden": [0]}}, "model.options.hidden.0", "1 or more"),
    ],
)  # fmt: skip
def test_rules_name_the_place(changes: dict[str, Any], place: str, words: str) -> None:
    found = problems(tree(**changes))
    assert place in found, found
    assert words in found[place]


def test_a_trusted_network_may_be_bound() -> None:
    made = tree(stream__endpoints=["tcp://*:5555"], stream__trusted_network=True)
    assert check_config(made).stream.endpoints == ("tcp://*:5555",)


def test_the_users_own_factory_is_imported_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_model.py").write_text(
        "def make(input_shape, output_shape, *, width: int = 3): ...\nraise_later = 1\n"
    )
    (tmp_path / "my_broken_model.py").write_text("raise RuntimeError('on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = {"name": "my_own_model:make", "options": {"width": 5}}
    assert check_config(tree(model=own)).model.options == {"width": 5}
    own = {"name": "my_own_model:make", "options": {"width": "wide"}}
    assert "is 'wide'" in problems(tree(model=own))["model.options.width"]
    assert "on purpose" in problems(tree(model={"name": "my_broken_model:make"}))["model.name"]


# reading the file


def test_later_sources_win(run_file: Callable[[dict[str, Any]], Path]) -> None:
    path = run_file(tree(buffer={"capacity_samples": 100}, trainer={"batch_size": 8, "seed": 1}))
    config = load_config(
        path,
        ["trainer.seed=3", "model.options.hidden=[4, 4]"],
        {
            "INSITU__TRAINER__SEED": "2",
            "INSITU__TRAINER__BATCH_SIZE": "9",
            "INSITU_URL": "http://x",
        },
    )
    assert (config.buffer.capacity_samples, config.trainer.batch_size) == (100, 9)
    assert config.trainer.seed == 3
    assert config.model.options == {"hidden": [4, 4]}


def test_lists_are_reached_by_number(run_file: Callable[[dict[str, Any]], Path]) -> None:
    path = run_file(tree(**CLOSED))
    config = load_config(path, ["strategies.0.options.strength=5", "stream.names.1=more"])
    assert config.strategies[0].options == {"strength": 5}
    assert config.stream.names == ("digits", "more")
    with pytest.raises(ConfigError, match=r"7 is no item of a list of 1; allowed: 0 to 1"):
        load_config(path, ["strategies.7.name=x"])


@pytest.mark.parametrize("word", ["buffer", "=3", "buffer..policy=fifo", "model.name.x=1"])
def test_overrides_that_name_nothing(run_file: Callable[[dict[str, Any]], Path], word: str) -> None:
    with pytest.raises(ConfigError):
        load_config(run_file(MINIMAL), [word])


def test_a_problem_says_where_the_value_was_set(run_file: Callable[[dict[str, Any]], Path]) -> None:
    path = run_file(tree(buffer={"policy": "fifi"}))
    environment = {"INSITU__TRAINER__BATCH_SIZE": "0"}
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["http.port=-1"], environment)
    text = str(caught.value)
    assert "buffer.policy (line 1)" in text or "buffer.policy (line 2)" in text
    assert "trainer.batch_size (INSITU__TRAINER__BATCH_SIZE)" in text
    assert "http.port (--set http.port=-1)" in text


def test_yaml_without_its_surprises() -> None:
    document = parse("on: off\nrate: 1e-3\nport: 010\nat: 2026-11-21\n1: '2'\n", "here")
    assert document.data == {
        "on": "off", "rate": 0.001, "port": 10, "at": "2026-11-21", "1": "2",
    }  # fmt: skip
    assert document.lines[("port",)] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: {c: 1, c: 2}\na: 2\n", r"a \(line 3\): stands twice, first on line 1"),
        ("a: !!python/object/apply:os.system [x]\n", "tag"),
        ("a: [1\n", "line 2"),
        ("? [1, 2]\n: x\n", "key that is a list"),
        ("a: &a [*a]\n", "alias"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n"
            for i in range(8)), "alias"),
        ("a: \x00", "special characters"),
        ("a: " + "[" * 1100, "nested too deep"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(text, "here")


def test_a_number_of_thousands_of_digits_is_infinite() -> None:
    assert parse(f"a: {'9' * 5000}", "here").data == {"a": float("inf")}


@given(st.text(max_size=200))
def test_junk_is_only_ever_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text, "here")


words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=8)
plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(plain_data)
def test_plain_data_survives_yaml(data: Any) -> None:
    assert parse(written(data), "here").data == data
    assert parse(json.dumps(data, ensure_ascii=False), "here").data == data


@given(st.sampled_from(list(Config.model_fields)), st.text(max_size=8), plain_data)
def test_whatever_stands_in_a_section_is_named_by_path(section: str, name: str, data: Any) -> None:
    made = copy.deepcopy(MINIMAL)
    made[section] = {**made.get(section, {}), name: data}
    found: tuple[Problem, ...] = ()
    try:
        check_config(made)
    except ConfigError as error:
        found = error.problems
    known = getattr(Config.model_fields[section].annotation, "model_fields", {})
    assert found or name in known
    assert {problem.path[0] for problem in found} <= {section}


@pytest.mark.parametrize("data", [None, 3, [1], "text", True])
@pytest.mark.parametrize("section", ["stream", "buffer", "strategies", "hooks"])
def test_a_section_of_the_wrong_kind(section: str, data: Any) -> None:
    made = {**MINIMAL, section: data}
    if data is None and section != "stream":
        assert check_config(made)
    else:
        assert {place.partition(".")[0] for place in problems(made)} == {section}


def test_scalars_are_those_of_yaml_1_2() -> None:
    assert [scalar(text) for text in ("0o17", "-3", "+.5", ".inf", "1_000", "12:30", "NULL")] == [
        15, -3, 0.5, float("inf"), "1_000", "12:30", None,
    ]  # fmt: skip


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")


# the whole


def test_the_effective_configuration_is_one_itself() -> None:
    made = tree(strategies=[{"name": "replay", "memory": {"capacity_samples": 10}}])
    shown = effective(check_config(made))
    assert shown["objective"]["options"]["label_smoothing"] == 0.0
    assert shown["strategies"][0]["options"].keys() >= {"samples_per_step"}
    again = check_config(parse(written(shown), "shown").data)
    assert effective(again) == shown


def test_the_json_schema_has_units_and_meanings() -> None:
    capacity = json_schema()["$defs"]["BufferSection"]["properties"]["capacity_samples"]
    assert capacity["unit"] == "samples"
    assert capacity["minimum"] == 1
    assert capacity["description"]


def test_hook_events_are_those_of_the_table() -> None:
    assert set(HookSection.model_fields["on"].annotation.__args__) == set(EVENTS)  # type: ignore[union-attr]


def test_tokens(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(" abc \n")
    assert read_token(secret) == "abc"
    secret.write_text("\n")
    with pytest.raises(OperatorError, match="is empty"):
        read_token(secret)
    assert "is empty" in problems(tree(http__token_file=str(secret)))["http.token_file"]


def test_reading_needs_no_torch_until_components_are_checked() -> None:
    code = "import sys, insitu.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_prefix_of_variables_is_documented() -> None:
    import insitu

    page = Path(insitu.__file__).parent / "docs" / "configuration.md"
    assert PREFIX in page.read_text()
