"""A network that tells domains apart, which adversarial alignments share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from crosstask_alignment.reversal import GradientReversalLayer


class Critic(nn.Module):
    """Logits [N, n_domains] for features [N, width]: Linear, ReLU and dropout for each of `hidden`, and a last Linear.

    `forward(x, alpha)` reverses the gradient that goes back into x, `alpha` times as strong: one optimiser then makes
    the critic better and the features harder to tell apart.
    """

    def __init__(self, width: int, hidden: Sequence[int], n_domains: int, dropout_rate: float = 0.0) -> None:
        super().__init__()
        sizes, layers = (width, *hidden), list[nn.Module]()
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout_rate)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], n_domains))

    def forward(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        own = x.to(next(self.parameters()).dtype)  # under autocast features may be of half the precision
        turned = cast(Tensor, GradientReversalLayer.apply(own, alpha))  # type: ignore[no-untyped-call]
        found: Tensor = self.layers(turned)
        return found


def domain_losses(logits: Tensor, domain: Tensor) -> Tensor:
    """The cross entropy of each row's domain [N], in at least single precision."""
    return functional.cross_entropy(logits.float() if logits.itemsize < 4 else logits, domain, reduction="none")
