"""A2C: one step on each rollout."""

from __future__ import annotations

from torch import Tensor

from crosstask.options import component, option
from crosstask_policy_gradient.learning import Batch, PolicyGradient, squared_error


@component
class A2C(PolicyGradient):
    """Advantage actor-critic (Mnih et al. 2016, without the asynchrony) of several tasks with one trunk: one step of
    the optimiser on all of a short rollout. Advantages are normalised by task; the gradients of the trunk, one for each
    task, go through the balancer.
    """

    learning_rate: float = option(3e-3, gt=0, help="step size of Adam, at first")
    steps: int = option(32, ge=1, help="steps of each place in a rollout")

    def rollout_steps(self) -> int:
        return self.steps

    def terms(self, log_prob: Tensor, entropy: Tensor, value: Tensor, batch: Batch) -> Tensor:
        error = squared_error(value, batch.returns)
        return self.value_weight * 2 * error - log_prob * batch.advantages - self.entropy * entropy
