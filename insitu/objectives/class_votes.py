"""A classifier of all classes, by whose votes a head is chosen.

It learns by balanced softmax (Ren et al., "Balanced meta-softmax for long-tailed visual
recognition", 2020, eq. 4), which is logit adjustment (Menon et al., "Long-tail learning via logit
adjustment", 2021) with the shares that classes have among the rows that are trained:

    loss = -log( share_y exp(l_y) / sum over c of share_c exp(l_c) )
    p(c | f) = exp(l_c) / sum over the classes seen of exp(l_c)
    score of a head = mean over its classes of p(c | f)

So p holds for a set in which all classes are as frequent, although the task in progress brings most
of the rows in training: plain softmax would vote for the newest classes.

Deviations: shares are a running mean over updates, since a stream has no shares that are known
before. A class that stays away keeps a share of 1/10,000.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: what an update leaves of the shares
_DECAY = 0.95
_LEAST_SHARE = 1e-4


class ClassVotes:
    """Shares of classes among the rows that are trained, and what follows from logits by them.

    Tensors are replaced, never written to.

    Args:
        classes: how many.

    Example:
        >>> votes = ClassVotes(3)
        >>> votes.count(torch.tensor([[True, False, False]] * 3 + [[False, True, False]]))
        >>> votes.shares
        tensor([0.7500, 0.2500, 0.0000])
        >>> heads = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
        >>> votes.scores(torch.tensor([[math.log(3), 0.0, 9.0]]), heads)
        tensor([[0.7500, 0.5000,   -inf]])
    """

    def __init__(self, classes: int) -> None:
        self.shares = torch.zeros(classes)

    def losses(self, logits: Tensor, is_class: Tensor) -> Tensor:
        """(rows,) of (rows, classes) logits and one-hot labels, these rows counted already."""
        log_shares = self._shares_with(is_class).log()  # -inf of a class that never came
        posterior = (logits + log_shares).log_softmax(dim=1)
        return -torch.where(is_class, posterior, 0.0).sum(dim=1)

    @staticmethod
    def scores(logits: Tensor, seen: Tensor) -> Tensor:
        """(rows, heads) of (rows, classes) logits and (heads, classes) what each head has seen;
        -inf for heads that have seen nothing."""
        shares = logits.masked_fill(~seen.any(dim=0), -math.inf).softmax(dim=1)
        shares = shares.masked_fill(~seen.any(), 0.0)  # a softmax over nothing is no number
        classes = seen.sum(dim=1)
        scores = shares @ seen.to(shares.dtype).T / classes.clamp_min(1)
        return scores.masked_fill(classes == 0, -math.inf)

    def count(self, is_class: Tensor) -> None:
        """Take over the rows of an update: (rows, classes) one-hot labels."""
        self.shares = self._shares_with(is_class)

    def _shares_with(self, is_class: Tensor) -> Tensor:
        known = self.shares.to(is_class.device)
        newest = is_class.to(torch.float32).mean(dim=0)
        kept = torch.where(known.sum() > 0, _DECAY, 0.0)
        shares = kept * known + (1 - kept) * newest
        return torch.where((known > 0) | (newest > 0), shares.clamp_min(_LEAST_SHARE), 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"shares": self.shares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.shares = state["shares"].detach().to(self.shares.device, copy=True)
