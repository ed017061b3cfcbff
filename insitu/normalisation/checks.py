"""What a normaliser refuses: names that do not fit the schema, states that do not fit it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insitu.errors import OperatorError
from insitu.schema import Schema


def check_names(
    schema: Schema, statistics_of: Mapping[str, str], optioned: tuple[str, ...]
) -> None:
    for name, source in statistics_of.items():
        for field in (name, source):
            if field not in schema:
                raise OperatorError(
                    f"normalisation: the stream has no field {field!r}",
                    allowed=", ".join(f.name for f in schema.fields),
                )
        if schema[name].dtype.startswith("complex"):
            raise OperatorError(
                f"normalisation: field {name!r} has dtype {schema[name].dtype}",
                allowed="floating, integer and bool dtypes",
            )
        if schema[name].shape != schema[source].shape or statistics_of.get(source) != source:
            raise OperatorError(
                f"normalisation: {name!r} {list(schema[name].shape)} cannot take the statistics "
                f"of {source!r} {list(schema[source].shape)}",
                allowed="a field of the same shape that keeps statistics of its own",
            )
    for name in optioned:
        if name not in statistics_of:
            raise OperatorError(
                f"normalisation: {name!r} is not a field that the objective reads as real numbers",
                allowed=", ".join(statistics_of),
            )


def check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if set(state) != set(own) or set(state["fields"]) != set(own["fields"]):
        raise OperatorError(
            f"the state of the normaliser holds {sorted(state)} for "
            f"{sorted(state.get('fields', ()))}",
            allowed=f"{sorted(own)} for {sorted(own['fields'])}",
            remedy="resume with the normalisation that the checkpoint was written with",
        )
    for name, tensors in own["fields"].items():
        for key, tensor in tensors.items():
            found = state["fields"][name].get(key)
            if found is None or found.shape != tensor.shape:
                raise OperatorError(
                    f"the normaliser's {key} of {name!r} in the state is "
                    f"{'missing' if found is None else list(found.shape)}",
                    allowed=f"shape {list(tensor.shape)}",
                )
