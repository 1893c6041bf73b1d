"""PPO: several passes over a rollout, in which the policy may not move far from the one that acted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from crosstask.options import component, option
from crosstask_policy_gradient.learning import Batch, PolicyGradient, squared_error


@component
class PPO(PolicyGradient):
    """Proximal policy optimisation (Schulman et al. 2017, equations 7 and 9) of several tasks with one trunk.

    Batches hold as many transitions of each task. Advantages are normalised by task, over the rollout. The gradients of
    the trunk, one for each task, go through the balancer; heads get those of their own task.
    """

    steps: int = option(32, ge=1, help="steps of each place in a rollout")
    epochs: int = option(10, ge=1, help="passes over a rollout")
    batch_size: int = option(384, ge=1, help="transitions of a step of the optimiser, of all tasks together")
    clip: float = option(0.2, gt=0, help="how far the ratio to the policy that acted may be from 1")

    def rollout_steps(self) -> int:
        return self.steps

    def terms(self, log_prob: Tensor, entropy: Tensor, value: Tensor, batch: Batch) -> Tensor:
        ratio = torch.exp(log_prob - batch.log_probs)
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        gained = torch.minimum(ratio * batch.advantages, clipped * batch.advantages)
        return self.value_weight * 2 * squared_error(value, batch.returns) - gained - self.entropy * entropy

    def batches(self, batch: Batch, generator: torch.Generator) -> Iterator[Batch]:
        counts = [count for count in torch.bincount(batch.tasks).tolist() if count]
        parts = min(max(1, round(len(batch.tasks) / self.batch_size)), max(counts))
        begins = [sum(counts[:n]) for n in range(len(counts))]
        for _ in range(self.epochs):
            drawn = [
                torch.randperm(count, generator=generator) + begin for count, begin in zip(counts, begins, strict=True)
            ]
            cut = [each.tensor_split(parts) for each in drawn]
            chosen = [torch.cat([own[n] for own in cut]) for n in range(parts)]
            shuffled, begin = batch.take(torch.cat(chosen)), 0
            for each in chosen:
                yield shuffled.cut(begin, begin + len(each))
                begin += len(each)
