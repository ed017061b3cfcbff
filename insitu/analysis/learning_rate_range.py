"""The learning-rate range test: raise the rate from tiny to huge, and see where the loss falls.

L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3. Here the
rate of step k of n (from 0) is

    rate(k) = lowest (highest / lowest)^(k / (n - 1)),

the loss of a step is that of its fresh rows before the update, smoothed by a fading mean without
bias, and the test ends early once the smoothed loss is `give_up` times its smallest.

Two suggestions, as Gugger put them: `steepest`, the rate at which the smoothed loss falls fastest
by the logarithm of the rate, and `minimum_tenth`, a tenth of the rate with the smallest smoothed
loss. The test's `suggestion` is the smaller of both, so that a loss that falls late cannot
suggest a rate from which training diverges; None where the loss never fell.

Deviations from Smith: the rate rises geometrically and not linearly, and what is watched is the
loss on rows of the stream before they are trained, since a stream has no validation set.

Afterwards the trainer is, bit by bit, what it was before: weights, moments, schedule, strategies
with their memories, statistics and random generators. So the batches of the test can be trained
as if it had never been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.trainer import Trainer

#: fewer steps say nothing
LEAST_STEPS = 10
_SMOOTHING = 0.9


@dataclass(frozen=True)
class LearningRateRange:
    """What a test found; the lists have one entry a step.

    Args:
        rates: learning rate of the first parameter group.
        losses: mean loss of the fresh rows before the step's update.
        smoothed: the same, smoothed.
        steepest: rate at which the smoothed loss falls fastest; None where it never falls.
        minimum_tenth: a tenth of the rate with the smallest smoothed loss; None likewise.
        stopped: whether the loss rose so far, or was not finite, that the test ended early.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    minimum_tenth: float | None
    stopped: bool

    @property
    def suggestion(self) -> float | None:
        """The smaller of both; None where the loss never fell."""
        found = [rate for rate in (self.steepest, self.minimum_tenth) if rate is not None]
        return min(found) if found else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {
            "rates": list(self.rates),
            "losses": list(self.losses),
            "smoothed": list(self.smoothed),
            "steepest": self.steepest,
            "minimum_tenth": self.minimum_tenth,
            "suggestion": self.suggestion,
            "stopped": self.stopped,
        }


def learning_rate_range(
    trainer: Trainer,
    batches: Sequence[Batch],
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    give_up: float = 4.0,
    beat: Callable[[], None] = lambda: None,
) -> LearningRateRange:
    """Train the batches at a rising rate, and restore the trainer.

    Args:
        trainer: between two steps. Groups with other rates than the first keep their ratio to it.
        batches: fresh rows, one batch a step; nobody writes to them.
        lowest, highest: rates of the first and the last step, of the first parameter group.
        give_up: end once the smoothed loss is this many times its smallest.
        beat: called before every step.

    Raises:
        OperatorError: fewer than `LEAST_STEPS` batches, or rates that do not rise from above 0.

    Example:
        >>> import torch
        >>> from insitu.objectives.classify import Classify
        >>> from insitu.schema import Schema
        >>> _ = torch.manual_seed(0)
        >>> schema = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})
        >>> model = torch.nn.Linear(2, 2)
        >>> trainer = Trainer(model, Classify(schema, classes=2),
        ...                   torch.optim.SGD(model.parameters(), lr=0.5))
        >>> rows = [torch.randn(32, 2) for _ in range(60)]
        >>> stream = [Batch.of({"x": x, "y": (x[:, 0] > 0).long()}) for x in rows]
        >>> found = learning_rate_range(trainer, stream, lowest=1e-4, highest=10.0)
        >>> 0.001 < found.suggestion < 10.0, trainer.steps
        (True, 0)
    """
    if len(batches) < LEAST_STEPS:
        raise OperatorError(
            f"the learning-rate range test has {len(batches)} batches",
            allowed=f"{LEAST_STEPS} or more",
            consequence="fewer say nothing, so it was not made",
        )
    if not 0.0 < lowest < highest < math.inf:
        raise OperatorError(
            f"the learning-rate range test goes from {lowest} to {highest}",
            allowed="0 < lowest < highest",
        )
    before = _copied(trainer.state_dict())
    gradients = [parameter.grad for parameter in trainer.module.parameters()]
    schedule, non_finite = trainer.schedule, trainer.non_finite
    trainer.schedule, trainer.non_finite = None, "skip"
    try:
        return _ramp(trainer, batches, lowest, highest, give_up, beat)
    finally:
        trainer.schedule, trainer.non_finite = schedule, non_finite
        for parameter, gradient in zip(trainer.module.parameters(), gradients, strict=True):
            parameter.grad = gradient
        trainer.load_state_dict(before)


def _ramp(
    trainer: Trainer,
    batches: Sequence[Batch],
    lowest: float,
    highest: float,
    give_up: float,
    beat: Callable[[], None],
) -> LearningRateRange:
    groups = trainer.optimizer.param_groups
    first = float(groups[0]["lr"])
    ratios = [float(group["lr"]) / first if first else 1.0 for group in groups]
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    stopped, fading = False, 0.0
    for number, batch in enumerate(batches):
        beat()
        rate = lowest * (highest / lowest) ** (number / (len(batches) - 1))
        for group, ratio in zip(groups, ratios, strict=True):
            group["lr"] = rate * ratio
        report = trainer.step(batch)
        loss = math.nan if report.loss_fresh is None else report.loss_fresh.item()
        if report.skipped or not math.isfinite(loss):
            stopped = True
            break
        fading = _SMOOTHING * fading + (1.0 - _SMOOTHING) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(fading / (1.0 - _SMOOTHING ** (number + 1)))
        if smoothed[-1] > give_up * min(smoothed) and number + 1 >= LEAST_STEPS:
            stopped = True
            break
    steepest, minimum_tenth = suggestions(rates, smoothed)
    return LearningRateRange(
        tuple(rates), tuple(losses), tuple(smoothed), steepest, minimum_tenth, stopped
    )


def suggestions(
    rates: Sequence[float], smoothed: Sequence[float]
) -> tuple[float | None, float | None]:
    """The rate of the steepest fall, and a tenth of the rate of the minimum.

    The slope at a step is that of the straight line between its neighbours. The steepest fall is
    looked for before the minimum.

    Example:
        >>> suggestions([0.01, 0.1, 1.0, 10.0], [2.0, 1.5, 0.5, 3.0])
        (0.1, 0.1)
        >>> suggestions([0.01, 0.1, 1.0], [1.0, 2.0, 3.0])
        (None, None)
    """
    if not smoothed:
        return None, None
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    if lowest == 0:
        return None, None
    slopes = {
        at: (smoothed[at + 1] - smoothed[at - 1]) / math.log(rates[at + 1] / rates[at - 1])
        for at in range(1, min(lowest + 1, len(rates) - 1))
    }
    steepest = rates[min(slopes, key=slopes.__getitem__)] if slopes else rates[lowest]
    return steepest, rates[lowest] / 10.0


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state
