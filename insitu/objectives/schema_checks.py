"""What an objective demands of the fields that the operator named."""

from __future__ import annotations

from collections.abc import Sequence

from insitu.errors import OperatorError
from insitu.schema import Field, Schema


def named_field(schema: Schema, objective: str, option: str, name: str) -> Field:
    """The field that an option names."""
    if name not in schema:
        raise OperatorError(
            f"objective {objective}: {option} is {name!r}, which the stream does not have",
            allowed=", ".join(field.name for field in schema.fields),
        )
    return schema[name]


def real_field(schema: Schema, objective: str, option: str, name: str) -> Field:
    """The same, for a field that is read as real numbers: everything but complex."""
    field = named_field(schema, objective, option, name)
    if field.dtype.startswith("complex"):
        raise OperatorError(
            f"objective {objective}: {option} {name!r} has dtype {field.dtype}",
            allowed="floating, integer and bool dtypes",
            remedy="push real and imaginary part as two channels",
        )
    return field


def label_field(schema: Schema, objective: str, option: str, name: str) -> Field:
    """The same, for a field that holds one integer label a sample."""
    field = named_field(schema, objective, option, name)
    if not field.dtype.startswith(("int", "uint", "bool")) or field.shape not in ((), (1,)):
        raise OperatorError(
            f"objective {objective}: {option} {name!r} is {field.dtype}{list(field.shape)}",
            allowed="one integer label a sample: an integer dtype (or bool) of shape [] or [1]",
        )
    return field


def same_shapes(objective: str, fields: Sequence[Field]) -> None:
    """Refuse fields of unlike shape."""
    if len({field.shape for field in fields}) > 1:
        found = ", ".join(f"{field.name!r} {list(field.shape)}" for field in fields)
        raise OperatorError(f"objective {objective}: unlike shapes {found}", allowed="equal ones")
