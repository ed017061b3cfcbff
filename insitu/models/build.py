"""A model by name, with weights that depend on nothing but its options and a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from insitu.component import find
from insitu.errors import InsituError, PluginError


def _itself(model: nn.Module) -> nn.Module:
    return model


def build_model(
    name: str,
    options: Mapping[str, Any],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    seed: int,
    network: Callable[[nn.Module], nn.Module] = _itself,
) -> nn.Module:
    """A model of ours, or the user's own `package.module:factory`, on the CPU.

    Modules draw their first weights from torch's global generator. Here it is set to `seed` for
    the time of construction only, so equal calls give equal weights, whoever drew before.

    Args:
        network: wraps the model in what the objective adds to it, drawing from the same seed.

    Raises:
        OperatorError: no such model, or wrong options.
        PluginError: the factory raises, or what it returns is not an `nn.Module` with something
            to train.

    Example:
        >>> first = build_model("mlp", {"hidden": [4]}, (3,), (2,), seed=1)
        >>> again = build_model("mlp", {"hidden": [4]}, (3,), (2,), seed=1)
        >>> all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
        True
    """
    component = find("insitu.models", name)
    parts = {"input_shape": input_shape, "output_shape": output_shape}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = component.build(options, parts)
            if isinstance(model, nn.Module):
                model = network(model)
        except InsituError:
            raise
        except Exception as error:
            raise PluginError(
                f"model {name!r} cannot be built: {type(error).__name__}: {error}",
                consequence="there is nothing to train",
                remedy=f"call it as factory({input_shape}, {output_shape}, "
                f"**{component.check(options)}) to see the trace",
            ) from error
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"model {name!r} returned {type(model).__name__}", allowed="a torch.nn.Module"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise PluginError(
            f"model {name!r} has no parameter to train",
            allowed="at least one parameter with requires_grad",
        )
    return model
