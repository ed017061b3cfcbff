"""A state, copied at one instant into memory that is already there.

The learner pays for one copy of its state; everything slow (hashing, writing, fsync) happens to
the copy, elsewhere. A fresh allocation of that size would cost several times the copy in page
faults, so the copies go into *arenas* that are allocated once, touched once, and reused. An arena
has the bytes of the safetensors data section in their final order: writing needs no second copy.

With two arenas a capture can happen while the one before is still being written. With both busy
`capture` returns None at once: a slow disk may cost a checkpoint, never a training step. Who must
have the checkpoint (at the stop) gives a timeout.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from insitu.checkpoint.layout import Layout, Signature, signature
from insitu.checkpoint.tree import flatten
from insitu.errors import InternalError


def _copy_on_host(view: Tensor, tensor: Tensor) -> None:
    """Copy as bytes, in this thread, where the source is dense.

    `Tensor.copy_` opens a parallel region for every tensor; with many tensors on cores that
    others use too, waking the threads costs up to twenty times the copying.
    """
    if tensor.is_contiguous() and not tensor.is_neg() and tensor.device.type == "cpu":
        np.copyto(_as_bytes(view), _as_bytes(tensor))
    else:
        view.copy_(tensor)


def _as_bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    # a dense tensor may still have any stride in a dimension of one element
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    array: npt.NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return array


class Arena:
    """A block of host memory that only grows, and the views of the layout it held last."""

    def __init__(self, *, pin_memory: bool) -> None:
        self._pin_memory = pin_memory
        self._block = torch.empty(0, dtype=torch.uint8)
        self._signature: Signature | None = None
        self.layout = Layout(())
        self.views: list[Tensor] = []

    def arrange(self, tensors: dict[str, Tensor]) -> list[Tensor]:
        """Make room for these tensors, and return them in the order of `self.views`."""
        wanted = signature(tensors)
        if wanted != self._signature:
            layout = Layout.of(tensors)
            if layout.size_bytes > len(self._block):
                self._block = torch.empty(0, dtype=torch.uint8)  # before the new, not beside it
                self._block = torch.empty(
                    layout.size_bytes, dtype=torch.uint8, pin_memory=self._pin_memory
                ).zero_()
            self.views = [place.view(self._block) for place in layout.places]
            self.layout, self._signature = layout, wanted
        return [tensors[place.name] for place in self.layout.places]

    def data(self) -> memoryview:
        return _as_bytes(self._block).data[: self.layout.size_bytes]


class Snapshot:
    """A state at one instant, in an arena that it must give back with `release`.

    Args:
        tree: the state without its tensors, see `insitu.checkpoint.tree`.
        arena: holds the bytes of the tensors.
        events: CUDA events after which these bytes are complete.
        give_back: called once with the arena.
    """

    def __init__(
        self,
        tree: Any,
        arena: Arena,
        events: Sequence[torch.cuda.Event],
        give_back: Callable[[Arena], None],
    ) -> None:
        self.tree = tree
        self.layout = arena.layout
        self._arena: Arena | None = arena
        self._events = events
        self._give_back = give_back

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors together."""
        return self.layout.size_bytes

    def data(self) -> memoryview:
        """The safetensors data section; waits until the device has filled it."""
        if self._arena is None:
            raise InternalError("a snapshot was read after its memory was given back")
        for event in self._events:
            event.synchronize()
        return self._arena.data()

    def release(self) -> None:
        """Give the memory back to the buffers; a second call does nothing."""
        arena, self._arena = self._arena, None
        if arena is not None:
            for event in self._events:
                event.synchronize()
            self._give_back(arena)


class SnapshotBuffers:
    """The arenas of one learner.

    Args:
        arenas: how many snapshots may be alive at a time; each takes the size of the state.
        pin_memory: page-locked memory, for copies from a GPU that do not wait;
            by default where CUDA is there.

    Example:
        >>> buffers = SnapshotBuffers()
        >>> snapshot = buffers.capture({"weight": torch.ones(3), "step": 5})
        >>> snapshot.size_bytes, snapshot.tree["step"]
        (12, 5)
        >>> snapshot.release()
    """

    def __init__(self, *, arenas: int = 2, pin_memory: bool | None = None) -> None:
        pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._arenas = [Arena(pin_memory=pinned) for _ in range(arenas)]
        self._free: queue.SimpleQueue[Arena] = queue.SimpleQueue()
        for arena in self._arenas:
            self._free.put(arena)
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def warm(self, state: Any) -> None:
        """Allocate every free arena for a state of this form, so that no capture has to."""
        _, tensors = flatten(state)
        for _ in range(self._free.qsize()):
            arena = self._free.get()
            try:
                arena.arrange(tensors)
            finally:
                self._free.put(arena)

    def capture(self, state: Any, timeout_seconds: float = 0.0) -> Snapshot | None:
        """Copy a state. None when no arena came free within the timeout.

        Every tensor becomes a dense copy of its own, also where several share memory. Tensors
        on a CUDA device are copied on a stream of their own: the host does not wait, and work
        queued on the device's current stream afterwards runs after the copy.

        Raises:
            OperatorError: the state holds something that no checkpoint can; names its path.
        """
        try:
            arena = self._free.get(timeout=timeout_seconds) if timeout_seconds > 0 else (
                self._free.get_nowait()
            )  # fmt: skip
        except queue.Empty:
            return None
        try:
            tree, tensors = flatten(state)
            events = self._copy(arena.arrange(tensors), arena.views)
        except BaseException:
            self._free.put(arena)
            raise
        return Snapshot(tree, arena, events, self._free.put)

    def _copy(self, tensors: list[Tensor], views: list[Tensor]) -> list[torch.cuda.Event]:
        on_device: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        on_host = []
        for tensor, view in zip(tensors, views, strict=True):
            if tensor.device.type == "cuda":
                on_device.setdefault(tensor.device, []).append((view, tensor))
            else:
                on_host.append((view, tensor))
        events = [self._copy_from(device, pairs) for device, pairs in on_device.items()]
        for view, tensor in on_host:
            _copy_on_host(view, tensor)
        return events

    def _copy_from(
        self, device: torch.device, pairs: list[tuple[Tensor, Tensor]]
    ) -> torch.cuda.Event:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream, current = self._streams[device], torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for view, tensor in pairs:
                view.copy_(tensor, non_blocking=True)
            event: torch.cuda.Event = stream.record_event()
        current.wait_event(event)  # the next update must not overwrite what is being copied
        return event
