"""What a function does on a CUDA device, captured once and replayed: one launch in place of many.

NVIDIA's CUDA graphs by `torch.cuda.graph`. What is captured must keep to what its documentation
asks: inputs, results and state in memory that never moves, the same operators in every run, no look
at the device, and runs before the capture on a stream of their own. What those runs changed is put
back here, since a run of Hebbian layers teaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

_WARM_UP_RUNS = 3

Result = TypeVar("Result")


def capture(
    function: Callable[[], Result], state: Sequence[Tensor], device: torch.device
) -> Callable[[], Result]:
    """A call that does what `function` does; on a CUDA device by replaying a graph of it.

    The capture itself runs nothing that lasts: `state` is afterwards as it was before. On other
    devices the operators run one by one.

    Args:
        state: all that a run changes and the next one reads.
        device: where `function` works.

    Returns:
        The call; its result is the same memory every time, which the next call writes to.

    Example:
        >>> count = torch.zeros(())
        >>> run = capture(lambda: count.add_(1.0), [count], torch.device("cpu"))
        >>> count
        tensor(0.)
        >>> run(), run()
        (tensor(2.), tensor(2.))
    """
    if device.type != "cuda":
        return function
    warm_up(function, state, _aside(device))
    graph = torch.cuda.CUDAGraph()
    # other threads of a service may allocate memory meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def warm_up(
    function: Callable[[], object],
    state: Sequence[Tensor],
    aside: AbstractContextManager[object] | None = None,
) -> None:
    """Run a function a few times, and put back what that changed.

    Args:
        aside: around the runs, such as a stream of their own.
    """
    before = [tensor.detach().clone() for tensor in state]
    with aside or nullcontext():
        for _ in range(_WARM_UP_RUNS):
            function()
    with torch.no_grad():
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Inside, work is on a stream of its own, behind what came before and before what comes."""
    current = torch.cuda.current_stream(device)
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        yield
    current.wait_stream(aside)
