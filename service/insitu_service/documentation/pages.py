"""The pages of methods: what each component's own file says of it, in one place.

A module's docstring is the page of its component: title, paper, equation, deviations. Strategies
further say what they cost, what they keep and when to use them, and declare their figures.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping

from insitu.component import Component, catalogue
from insitu_service.documentation.tables import options_of, table

#: how the paragraphs begin that every strategy's page must have
PARAGRAPHS = ("Costs:", "Keeps:", "Use it when:")


def docstring(component: Component) -> str:
    """Of the module that the component is the one of."""
    module = importlib.import_module(component.factory.__module__)
    return inspect.getdoc(module) or ""


def paragraph(text: str, begin: str) -> str:
    """What follows `begin` up to the next empty line, on one line; empty when there is none.

    Example:
        >>> paragraph("A title.\\n\\nCosts: one pass\\nmore.\\n\\nKeeps: nothing.", "Costs:")
        'one pass more.'
    """
    match = re.search(rf"^{re.escape(begin)}(.*?)(?:\n\s*\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def _page(name: str, component: Component) -> str:
    title, _, body = docstring(component).partition("\n")
    figures: Mapping[str, str] = getattr(component.factory, "figures", {})
    blocks = [f"## `{name}`", f"**{title.rstrip('.')}.**", body.strip()]
    if figures:
        blocks.append(table(["Figure", "Meaning"], [(f"`{k}`", v) for k, v in figures.items()]))
    return "\n\n".join(block for block in blocks if block)


def strategies() -> str:
    """A table to choose by, then a page for every strategy."""
    known = sorted(catalogue("insitu.strategies").items())
    rows = [
        (f"`{name}`", *(paragraph(docstring(component), begin) for begin in PARAGRAPHS))
        for name, component in known
    ]
    overview = table(["Strategy", *(begin.rstrip(":") for begin in PARAGRAPHS)], rows)
    return "\n\n".join([overview, *(_page(name, component) for name, component in known)])


def of_kind(package: str) -> Callable[[], str]:
    """The pages of all components of a package."""
    return lambda: "\n\n".join(_page(*item) for item in sorted(catalogue(package).items()))


def hebbian_rules() -> str:
    """A page for every rule of Hebbian layers, with its options."""
    known = sorted(catalogue("insitu.layers.rules").items())
    return "\n\n".join(
        block for item in known for block in ("#" + _page(*item), *options_of(item[1]))
    )


PAGES: dict[str, Callable[[], str]] = {
    "strategies": strategies,
    "memories": of_kind("insitu.memory"),
    "objectives": of_kind("insitu.objectives"),
    "detection": of_kind("insitu.detection"),
    "hebbian-rules": hebbian_rules,
}
