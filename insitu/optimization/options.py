"""Options of torch's own classes, checked against their signatures."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from insitu.errors import OperatorError


def find_class(
    kind: str, name: str, classes: Mapping[str, type], refused: Mapping[str, str]
) -> Any:
    """The class called `name`, in any case; `refused` says why some of torch's are left out."""
    by_name = {key.casefold(): key for key in (*classes, *refused)}
    found = by_name.get(name.casefold())
    if found is None or found in refused:
        reason = f": {refused[found]}" if found else ""
        raise OperatorError(
            f"{kind} has no {name!r}{reason}",
            allowed=", ".join(sorted(classes)),
            consequence="the service does not start",
        )
    return classes[found]


def checked_options(
    kind: str, target: type, options: Mapping[str, Any], reserved: Collection[str]
) -> dict[str, Any]:
    """The options with lists as tuples, if `target` has parameters of these names.

    Args:
        reserved: parameters that are not the operator's to set.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if name not in reserved
    }
    unknown = sorted(options.keys() - parameters.keys())
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in options
    ]
    if unknown or missing:
        problems = [f"no such option: {', '.join(unknown)}"] if unknown else []
        problems += [f"it needs {', '.join(missing)}"] if missing else []
        raise OperatorError(
            f"{kind} {target.__name__}: {'; '.join(problems)}",
            allowed=", ".join(parameters),
        )
    return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}


def refusal(kind: str, target: type, options: Mapping[str, Any], error: Exception) -> OperatorError:
    """What to say when torch does not accept the options."""
    text = [name for name, value in options.items() if isinstance(value, str)]
    return OperatorError(
        f"{kind} {target.__name__} refuses {dict(options)}: {error}",
        consequence="the service does not start",
        remedy=f"{', '.join(text)} came as text; YAML takes 1e-3 for text and 1.0e-3 for a number"
        if text
        else f"see torch's documentation of {target.__name__}",
    )
