"""The page of guarantees: every cell of its table names tests, and these tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parent / "insitu" / "docs" / "guarantees.md").read_text()
TABLE = PAGE.partition("## The table")[2].partition("## The tests")[0]
LIST = PAGE.partition("## The tests")[2].partition("\n## ")[0]
ROWS = [line.strip("|").split("|") for line in TABLE.splitlines() if line.startswith("|")][2:]
TESTS = {
    int(number): re.findall(r"`(\w+\.py)::(\w+)`", text)
    for number, text in re.findall(r"^(\d+)\. (.*(?:\n   +.*)*)", LIST, re.MULTILINE)
}


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip()[:40] for row in ROWS])
def test_every_promise_names_its_tests(row: list[str]) -> None:
    assert len(row) == 4
    for cell in row[1:]:
        numbers = [int(number) for number in re.findall(r"\[(\d+)\]", cell)]
        assert numbers, cell
        assert set(numbers) <= TESTS.keys()


@pytest.mark.parametrize("number", TESTS)
def test_the_tests_are_there(number: int) -> None:
    assert TESTS[number]
    for file, name in TESTS[number]:
        (path,) = HERE.rglob(file)
        assert name in functions(path), f"{file} has no {name}"


def test_every_test_of_the_list_is_used() -> None:
    assert len(ROWS) > 12
    assert {int(n) for n in re.findall(r"\[(\d+)\]", TABLE)} == TESTS.keys()
