"""What happens when the loss or the gradient is infinite or NaN."""

from __future__ import annotations

from typing import Literal

from insitu.errors import OperatorError

#: `skip`: make no update and go on. `stop`: raise, the service stops. `rollback`: raise, the
#: service loads the last good checkpoint and goes on.
NonFinite = Literal["skip", "stop", "rollback"]


class NonFiniteLoss(OperatorError):  # noqa: N818 (the field's own word for it)
    """The loss or the gradient of a step is not finite; the weights are as before the step.

    Args:
        step: number of the step that was not made.
        loss: loss with penalties.
        gradient_norm: L2 norm over all gradients.
        policy: the policy under which it was raised, `stop` or `rollback`.
    """

    def __init__(self, step: int, loss: float, gradient_norm: float, policy: NonFinite) -> None:
        self.step = step
        self.loss = loss
        self.gradient_norm = gradient_norm
        self.policy = policy
        super().__init__(
            f"step {step}: the loss is {loss} and the norm of its gradient is {gradient_norm}",
            allowed="finite numbers",
            consequence=f"the step was not made; trainer.non_finite is {policy!r}",
            remedy="lower the learning rate, clip gradients, normalise the input, "
            "or look for broken samples",
        )
