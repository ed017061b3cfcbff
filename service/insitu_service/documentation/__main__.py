"""Tables in the documentation, made from the code that they describe.

A table stands between `<!-- generated:NAME -->` and `<!-- end -->` in README.md or a page of
`insitu/docs`. `python -m insitu_service.documentation --write` brings all up to date, `--check`
says which are not. What lacks a description or a unit is an error, so nothing goes undocumented.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import insitu
from insitu_service.documentation.pages import PAGES
from insitu_service.documentation.tables import TABLES as _TABLES

#: every table and every run of pages, by the name in its comment
TABLES = {**_TABLES, **PAGES}

_BLOCK = re.compile(
    r"(?P<begin><!-- generated:(?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def pages(root: Path | None = None) -> list[Path]:
    """The pages that may hold tables: README.md of a checkout, and all in `insitu/docs`."""
    package = Path(insitu.__file__).parent
    readme = (root or package.parent) / "README.md"
    return [page for page in (readme, *sorted((package / "docs").glob("*.md"))) if page.is_file()]


def updated(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The text of a page with every table made anew.

    Example:
        >>> updated("<!-- generated:a -->\\nold\\n<!-- end -->", {"a": lambda: "new"})
        '<!-- generated:a -->\\nnew\\n<!-- end -->'
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in tables:
            raise ValueError(f"no table is called {name!r}; there are {', '.join(tables)}")
        return f"{match['begin']}{tables[name]()}\n{match['end']}"

    if text.count("<!-- generated:") != len(_BLOCK.findall(text)):
        raise ValueError("a '<!-- generated:NAME -->' has no '<!-- end -->' on a line of its own")
    return _BLOCK.sub(replace, text)


def outdated() -> Iterator[tuple[Path, str]]:
    """The pages that are not up to date, each with what its text should be."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = updated(text, TABLES)
        if new != text:
            yield page, new


def main(arguments: Sequence[str]) -> int:
    """`--check` or `--write`; 1 when something is not up to date."""
    if list(arguments) not in (["--check"], ["--write"]):
        print("python -m insitu_service.documentation --check | --write", file=sys.stderr)
        return 2
    write, found = list(arguments) == ["--write"], False
    for page, text in outdated():
        found = True
        if write:
            page.write_text(text, encoding="utf-8")
        print(f"{page} {'is written' if write else 'is out of date; run --write'}")
    return int(found and not write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
