"""The `dann` alignment."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from crosstask.options import component, option
from crosstask_alignment.contract import Alignment
from crosstask_alignment.critics import Critic, domain_losses
from crosstask_alignment.reversal import reversal_strength


@component
class DANN(Alignment):
    """A critic tells domains apart by the features, and its gradient is reversed on its way into them.

    The term is the critic's cross entropy over all rows: it rises towards log(number of domains) as features stop
    telling. The reversed gradient is alpha(p) = 2 / (1 + exp(-gamma p)) - 1 times as strong at progress p, so that a
    critic that knows nothing yet disturbs nothing.

    Source: Ganin et al. 2016, *Domain-Adversarial Training of Neural Networks*, equations 13 to 16, section 5.2.2.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"scheduled"})

    hidden_dims: tuple[int, ...] = option((128,), ge=1, help="widths of the critic's hidden layers")
    gamma: float = option(10.0, gt=0, help="how fast the reversed gradient reaches its strength")

    def critic(self, features: int, n_domains: int, n_classes: int | None) -> nn.Module:
        return Critic(features, self.hidden_dims, n_domains)

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        assert self.network is not None
        return domain_losses(self.network(features, reversal_strength(progress, self.gamma)), domain).mean()
