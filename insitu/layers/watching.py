"""Forward hooks that do not follow a module into its copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Watching:
    """A forward hook that shows a watcher what a module gives; a copy of the module has none.

    Teachers and virtual models are deep copies of the model. With a plain hook such a copy would
    take a copy of its watcher along, with all that it has recorded, and feed it.

    Example:
        >>> import copy, torch
        >>> seen = []
        >>> module = nn.Identity()
        >>> _ = module.register_forward_hook(Watching(seen.append))
        >>> _ = copy.deepcopy(module)(torch.zeros(1)), module(torch.ones(1))
        >>> seen
        [tensor([1.])]
    """

    def __init__(self, watcher: Callable[[Tensor], None] | None) -> None:
        self._watcher = watcher

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._watcher is not None:
            self._watcher(output.detach())

    def __deepcopy__(self, memo: Any) -> Watching:
        return Watching(None)
