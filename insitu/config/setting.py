"""How one setting is declared: its meaning, its unit and its range, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

OptionalPath = Annotated[Path, Field(strict=False)] | None


def setting(description: str, *, unit: str = "", **constraints: Any) -> Any:
    """The metadata of a setting, for use inside `Annotated`.

    Args:
        description: what it does, in one sentence; goes into the JSON schema and the docs.
        unit: such as "samples" or "seconds"; empty for names, switches and pure numbers.
        **constraints: as for `pydantic.Field`: `ge`, `gt`, `le`, `lt`, `pattern`, `min_length`.
    """
    extra: Any = {"unit": unit} if unit else {}
    return Field(description=description, json_schema_extra=extra, **constraints)


Options = Annotated[
    dict[str, Any], setting("Its options; the tables of components list them with their ranges.")
]
COMPONENT_NAME = "One of ours by its name, or your own as package.module:factory."


class Section(BaseModel):
    """A group of settings: immutable, and strict about names and types."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False
    )


def refuse(code: str, message: str, **values: Any) -> PydanticCustomError:
    """What a validator raises, with the values that its message names."""
    return PydanticCustomError(code, message, values)
