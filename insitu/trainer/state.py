"""The trainer's state as nested plain data, and back, with errors that name what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from insitu.errors import OperatorError

_REMEDY = "resume with the configuration that the checkpoint was written with"


def check_keys(what: str, found: Mapping[str, Any], wanted: Iterable[str]) -> None:
    """Refuse a state that lacks a key or has one too many."""
    if set(found) != set(wanted):
        raise OperatorError(
            f"{what} holds {', '.join(sorted(found)) or 'nothing'}",
            allowed=", ".join(sorted(wanted)) or "nothing",
            remedy=_REMEDY,
        )


def check_presence(part: str, found: object, own: object) -> None:
    """Refuse a state with a part that we lack, or without one that we have."""
    if (found is None) != (own is None):
        raise OperatorError(
            f"the state has {'no ' if found is None else 'a '}{part}",
            allowed=f"{'no' if own is None else 'a'} {part}, as this trainer",
            remedy=_REMEDY,
        )


def load_model(module: nn.Module, saved: Mapping[str, Any]) -> None:
    try:
        module.load_state_dict(dict(saved))
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise OperatorError(f"the weights do not fit: {message}", remedy=_REMEDY) from None


def of_generators(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's default generators that a step on the device may draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_generators(saved: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the default generators; one of a device that we are not on is left out."""
    torch.set_rng_state(saved["cpu"].cpu())
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"].cpu(), device)
