"""Hebbian layers in a trainer by CUDA graphs: where that can be, and where it is refused."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from insitu.errors import OperatorError
from insitu.layers.captured_pass import CapturedMove, CapturesPasses, check_unwatched
from insitu.layers.update import HebbianUpdate, decisions


def mover(
    model: nn.Module, update: HebbianUpdate | None, device: torch.device, *, by_graphs: bool
) -> Callable[[], None]:
    """What moves all Hebbian layers, once a step; does nothing where there are none.

    Args:
        by_graphs: capture it, and the passes of the model that Hebbian layers learn from.

    Raises:
        OperatorError: there is nothing to capture, or what is there cannot be captured here.
    """
    if by_graphs:
        return _captured(model, update, device)
    return _nothing if update is None else update.step


def _nothing() -> None:
    """A model without Hebbian layers."""


def _captured(model: nn.Module, update: HebbianUpdate | None, device: torch.device) -> CapturedMove:
    module: nn.Module = getattr(model, "_orig_mod", model)
    networks = [part for part in module.modules() if isinstance(part, CapturesPasses)]
    if not networks or update is None:
        raise _refused("the model has no Hebbian blocks", "model.name: hebbian")
    if module is not model:
        raise _refused("the model is compiled", "one of trainer.compile and trainer.cuda_graphs")
    check_unwatched(module)
    decisions(update.parts)
    if device.type != "cuda":
        raise _refused(f"the model is on {device}", "trainer.device: cuda")
    for network in networks:
        network.capture_passes()
    return CapturedMove(update)


def _refused(why: str, allowed: str) -> OperatorError:
    return OperatorError(
        f"trainer.cuda_graphs is true, and {why}",
        allowed=allowed,
        consequence="the service does not start",
        remedy="set trainer.cuda_graphs to false: the same operators then run one by one",
    )
