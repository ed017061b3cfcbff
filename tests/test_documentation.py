"""What is documented is what there is: no table is stale, and nothing goes without words."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

import insitu
from insitu.component import catalogue
from insitu.config import Config, load_config
from insitu.config.components import PACKAGES
from insitu.hooks import EVENTS
from insitu.metrics import METRICS
from insitu_service import exit_codes
from insitu_service.cli.run import insitu as command_line
from insitu_service.commands import COMMANDS
from insitu_service.documentation.__main__ import main, outdated, pages, updated
from insitu_service.documentation.tables import TABLES, settings, unit
from insitu_service.http.application import ADDRESSES
from insitu_service.monitoring.logs import configure_logs

DOCS = Path(insitu.__file__).parent / "docs"
SETTINGS = dict(settings(Config, ""))
OPTIONS = {
    f"{kind}.{name}.{option}": info
    for kind, package in PACKAGES.items()
    for name, component in catalogue(package).items()
    for option, info in component.options.model_fields.items()
}
#: Numbers without a unit, each for a reason.
UNITLESS = {
    "trainer.seed",  # a name, written as a number
    "http.port",  # a name, too
    "trainer.gradient_clip_norm",  # in the unit of the loss over that of a weight, so in none
}


def has_number(annotation: Any) -> bool:
    """Whether a value of the type may be a number (a truth value is none)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, tuple):
        return any(has_number(each) for each in typing.get_args(annotation))
    return annotation in (int, float)


def test_every_table_is_up_to_date() -> None:
    stale = [str(page) for page, _ in outdated()]
    assert not stale, f"python -m insitu_service.documentation --write  # for {stale}"


def test_every_table_stands_somewhere() -> None:
    text = "".join(page.read_text() for page in pages())
    for name in TABLES:
        assert f"<!-- generated:{name} -->" in text, f"the table {name!r} is on no page"


@pytest.mark.parametrize("path", [*SETTINGS, *OPTIONS])
def test_every_setting_has_a_meaning_and_a_unit(path: str) -> None:
    info: FieldInfo = {**SETTINGS, **OPTIONS}[path]
    assert len(info.description or "") > 10, f"{path} has no description"
    if has_number(info.annotation) and path not in UNITLESS and not path.endswith(".shape"):
        assert unit(info), f"{path} is a number without a unit"


def test_exemptions_are_needed() -> None:
    assert all(path in SETTINGS and not unit(SETTINGS[path]) for path in UNITLESS)


@pytest.mark.parametrize("kind", list(PACKAGES))
def test_every_component_says_what_it_does(kind: str) -> None:
    found = catalogue(PACKAGES[kind])
    assert found
    for name, component in found.items():
        assert component.summary.endswith("."), f"{kind} {name!r} has no one-line summary"


def test_nothing_is_left_out_of_the_pages() -> None:
    def page(name: str) -> str:
        return (DOCS / f"{name}.md").read_text()

    assert all(f"`{path}`" in page("configuration") for path in SETTINGS)
    assert all(f"`{option.rpartition('.')[2]}`" in page("configuration") for option in OPTIONS)
    assert all(f"`{name}`" in page("http") for name in (*COMMANDS, *ADDRESSES))
    assert all(f"`{metric.name}`" in page("metrics") for metric in METRICS)
    assert all(f"`{name}`" in page("hooks") for name in EVENTS)
    assert all(f"| {code} |" in page("cli") for code in exit_codes.MEANINGS)
    assert all(f"### `insitu {name}`" in page("cli") for name in command_line.commands)


def test_metrics_have_meanings() -> None:
    assert all(len(metric.meaning) > 10 for metric in METRICS)


def test_commands_of_the_command_line_have_help() -> None:
    for name, command in command_line.commands.items():
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name not in (
                "help", "url", "endpoint", "rows_per_push", "repeat", "form", "field",
            ):  # fmt: skip
                assert getattr(parameter, "help", None), f"{name} --{parameter.name}"


def test_a_page_is_made_anew_and_only_between_the_markers() -> None:
    text = "a\n<!-- generated:t -->\nold | table\n<!-- end -->\nb <!-- end -->\n"
    new = updated(text, {"t": lambda: "new"})
    assert new == "a\n<!-- generated:t -->\nnew\n<!-- end -->\nb <!-- end -->\n"
    assert updated(new, {"t": lambda: "new"}) == new
    with pytest.raises(ValueError, match="no table is called 't'"):
        updated(text, {})
    with pytest.raises(ValueError, match="has no"):
        updated("<!-- generated:t -->\n", {"t": lambda: ""})


def test_the_check_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().out == ""
    assert main([]) == 2


def test_the_example_of_the_page_is_valid(tmp_path: Path) -> None:
    text = (DOCS / "configuration.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "run.yaml").write_text(example)
    config = load_config(tmp_path / "run.yaml", ["model.options.hidden=[64,64]"])
    assert config.model.options == {"hidden": [64, 64]}


def test_the_log_page_names_the_fields() -> None:
    text = (DOCS / "cli.md").read_text()
    assert all(f"`{name}`" in text for name in ("time", "level", "logger", "message", "left_out"))
    assert configure_logs.__doc__
