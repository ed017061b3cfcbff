"""The batch that was drawn and could not be trained, for the run that goes on from the checkpoint.

When memory runs out for good, the learner ends between a draw and its update. The stream buffer has
let go of these rows, so they go into the last checkpoint by themselves, and are trained first by
whoever resumes from it: exactly once, as all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from insitu.batch import Batch


class HeldBack:
    """At most one batch; used by the learner, and by whoever saves and restores.

    Example:
        >>> held = HeldBack()
        >>> held.keep(Batch.of({"x": torch.ones(2, 3)}))
        >>> again = HeldBack()
        >>> again.load_state_dict(held.state_dict())
        >>> again.samples, again.take().fields["x"].shape, again.take()
        (2, torch.Size([2, 3]), None)
    """

    def __init__(self) -> None:
        self._batch: Batch | None = None

    @property
    def samples(self) -> int:
        return 0 if self._batch is None else self._batch.rows

    def keep(self, batch: Batch) -> None:
        """These rows of the stream are still to be trained; nobody writes to them any more."""
        self._batch = batch

    def take(self) -> Batch | None:
        """The batch, to be trained now."""
        batch, self._batch = self._batch, None
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing where there is nothing."""
        if self._batch is None:
            return {}
        return {"fields": dict(self._batch.fields), "provenance": self._batch.provenance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batch = None
        if state:
            provenance: torch.Tensor = state["provenance"]
            self._batch = Batch(dict(state["fields"]), provenance, len(provenance))
