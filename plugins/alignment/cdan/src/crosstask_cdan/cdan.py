"""The `cdan` alignment."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.options import component, option
from crosstask_alignment.contract import Alignment
from crosstask_alignment.critics import Critic, domain_losses
from crosstask_alignment.reversal import reversal_strength


class ConditionalCritic(nn.Module):
    """A critic of the multilinear map of features f [N, F] and probabilities g [N, C].

    The map is the outer product f ⊗ g, flattened, as long as it has at most `size` numbers; above that it is
    randomised: (R_f f) ⊙ (R_g g) / √size with fixed standard normal R_f [F, size] and R_g [C, size], whose inner
    products are in the mean those of the outer product (equation 5 of Long et al. 2018).
    """

    def __init__(self, features: int, classes: int, n_domains: int, hidden: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.randomised = features * classes > size
        if self.randomised:
            self.register_buffer("of_features", torch.randn(features, size))
            self.register_buffer("of_classes", torch.randn(classes, size))
        self.critic = Critic(size if self.randomised else features * classes, hidden, n_domains)

    def map(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """The map [N, F * C] or [N, size]."""
        if not self.randomised:
            return (features[:, :, None] * probabilities[:, None, :]).flatten(1)
        ours, theirs = cast(Tensor, self.of_features), cast(Tensor, self.of_classes)
        return (features @ ours) * (probabilities @ theirs) / ours.shape[1] ** 0.5

    def forward(self, features: Tensor, probabilities: Tensor, alpha: float) -> Tensor:
        kind = next(self.parameters()).dtype
        found: Tensor = self.critic(self.map(features.to(kind), probabilities.to(kind)), alpha)
        return found


@component
class CDAN(Alignment):
    """A critic tells domains apart by features and predictions together, so that what is aligned is the features of
    each class; its gradient is reversed on its way into the features.

    Predictions are constants here; in the authors' code they are so to the critic, not in the entropy's weights. With
    `entropy` (CDAN+E) a row counts with 1 + exp(-H), H the entropy of its prediction, so that what is easy to transfer
    counts more; the weights of each domain have mean 1.
    A model with a single logit is one of two classes.

    Source: Long, Cao, Wang, Jordan 2018, *Conditional Adversarial Domain Adaptation*, equations 4 to 9.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"conditional", "scheduled"})

    hidden_dims: tuple[int, ...] = option((128,), ge=1, help="widths of the critic's hidden layers")
    size: int = option(4096, ge=1, help="the largest map that is not randomised, and the size of one that is")
    entropy: bool = option(True, help="let certain predictions count more")
    gamma: float = option(10.0, gt=0, help="how fast the reversed gradient reaches its strength")

    def critic(self, features: int, n_domains: int, n_classes: int | None) -> nn.Module:
        assert n_classes is not None  # a conditional component is refused without
        return ConditionalCritic(features, max(2, n_classes), n_domains, self.hidden_dims, self.size)

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        assert self.network is not None
        assert outputs is not None
        logits = outputs.detach().float() if outputs.itemsize < 4 else outputs.detach()
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        logs = functional.log_softmax(logits, dim=1)
        found = self.network(features, logs.exp(), reversal_strength(progress, self.gamma))
        losses = domain_losses(found, domain)
        if not self.entropy:
            return losses.mean()
        weights = 1 + torch.exp((logs.exp() * logs).sum(1).to(losses.dtype))
        counts = torch.zeros(int(domain.max()) + 1, dtype=losses.dtype, device=losses.device)
        total, rows = counts.index_add(0, domain, weights), counts.index_add(0, domain, torch.ones_like(weights))
        return (losses * weights * (rows / total)[domain]).mean()
