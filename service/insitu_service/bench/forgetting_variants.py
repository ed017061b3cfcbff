"""What `insitu bench forgetting` compares: named lists of strategies, from words or from YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from insitu.component import find
from insitu.config.document import parse
from insitu.errors import OperatorError

#: plain training, and plain training on all data shuffled: the floor and a ceiling
NAIVE, JOINT = "naive", "joint"
_KEYS = {"strategies", "set", "joint"}


@dataclass(frozen=True)
class Variant:
    """One way to learn.

    Args:
        name: in tables and file names.
        strategies: sections as in a configuration; what is left out is filled in later.
        settings: overrides of the configuration, by the path of the setting.
        joint: learns from all tasks at once, shuffled.
    """

    name: str
    strategies: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    joint: bool = False


def read_variants(words: str) -> list[Variant]:
    """Variants from `A,B+C,FILE.yaml`, in this order, each name once.

    A word is the name of a strategy, several with `+` between them, `naive`, `joint`, or a YAML
    file whose every entry is a variant: a list of strategies, or a mapping with `strategies`,
    `set` (settings by their path) and `joint`.

    Raises:
        OperatorError: there is no such strategy or file, or a name comes twice.

    Example:
        >>> [variant.name for variant in read_variants("naive,replay+online_ewc,joint")]
        ['naive', 'replay+online_ewc', 'joint']
    """
    variants: list[Variant] = []
    for word in filter(None, (word.strip() for word in words.split(","))):
        if word.endswith((".yaml", ".yml")):
            variants += _from_file(Path(word))
        else:
            variants.append(_from_word(word))
    names = [variant.name for variant in variants]
    if not names or len(set(names)) < len(names):
        raise OperatorError(
            f"the variants are {', '.join(names) or 'none'}", allowed="one or more, each name once"
        )
    for variant in variants:
        for section in variant.strategies:
            find("insitu.strategies", section["name"])
    return variants


def _from_word(word: str) -> Variant:
    if word in (NAIVE, JOINT):
        return Variant(word, joint=word == JOINT)
    return Variant(word, tuple({"name": name} for name in word.split("+")))


def _from_file(path: Path) -> Iterable[Variant]:
    try:
        tree = parse(path.read_text(encoding="utf-8"), str(path)).data
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} cannot be read: {error}") from error
    if not isinstance(tree, dict) or not tree:
        raise OperatorError(f"{path} is not a mapping of variants by name")
    return [_from_entry(path, str(name), entry) for name, entry in tree.items()]


def _from_entry(path: Path, name: str, entry: Any) -> Variant:
    entry = {} if entry is None else entry
    mapping = {"strategies": entry} if isinstance(entry, list) else entry
    if not isinstance(mapping, dict) or set(mapping) - _KEYS:
        raise OperatorError(
            f"{name!r} in {path} is {entry!r}",
            allowed="a list of strategies, or a mapping with " + ", ".join(sorted(_KEYS)),
        )
    sections = mapping.get("strategies") or []
    sections = [{"name": each} if isinstance(each, str) else each for each in sections]
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in sections):
        raise OperatorError(
            f"the strategies of {name!r} in {path} are {sections!r}",
            allowed="names, or mappings with name, options and memory",
        )
    return Variant(
        name, tuple(sections), dict(mapping.get("set") or {}), bool(mapping.get("joint", False))
    )
