"""Multi-gate mixture of experts."""

from __future__ import annotations

from torch import Tensor, nn

from crosstask.options import component
from crosstask_multitask.experts import gate_for
from crosstask_multitask.mixture import MixtureSharing


@component
class MMoE(MixtureSharing):
    """Every task mixes the same experts in its own proportions: Ma et al. (2018), equations 6 and 7.

    Of a task k, with experts f_i (copies of the trunk) and its gate's weights W_k [E, F]: f^k(x) = Σ_i g^k(x)_i f_i(x),
    g^k(x) = softmax(W_k x), y_k = h^k(f^k(x)). The gate has a bias. Experts and the shared first layers are shared,
    gates and heads are the tasks' own. The first expert is the given trunk, the others are drawn anew from the seed.
    DataError for a task without output_dim, a trunk that has too few layers, gates that would look at ids.
    """

    def gate(self, seen: Tensor, experts: int, seed: int) -> nn.Module:
        return gate_for(seen, experts, seed)
