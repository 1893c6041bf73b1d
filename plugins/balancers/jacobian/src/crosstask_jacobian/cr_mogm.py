"""Another balancer's weights, averaged over the steps."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from crosstask import component, option, state
from crosstask.errors import PluginError
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, names_of, with_kept
from crosstask.learning.gradients.solvers import to_array, to_tensor
from crosstask.parts import Part, part
from crosstask.points.balancer import Balancer, parts


@component
class CRMOGM(Balancer):
    """The weights λ̂ of another balancer, followed slowly: λ ← alpha λ + (1 - alpha) λ̂, and the update is Σ λ_i g_i.

    The weights of one batch depend on its gradients, and so on its noise: their product is biased. The slower λ moves,
    the less it has to do with the batch at hand, which is what the paper needs for MGDA, PCGrad and CAGrad to converge
    (there alpha tends to 1 as the learning rate falls). A task's λ starts as its first λ̂.

    Weights that belong to whole losses still do. State: λ, by task, and that of the balancer. PluginError if it answers
    with a direction (`rgb`, `graddrop`), which has no weights.

    Source: Zhou et al. 2022, *On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond*,
    NeurIPS, algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    balancer: Part = part("balancer", "mgda", help="whose weights are averaged")
    alpha: float = option(0.9, help="how much of the averaged weights is kept", ge=0, le=1)

    average: Kept = state(factory=dict)

    @property
    def weighs_losses(self) -> bool:  # type: ignore[override]
        """Whether the balancer's weights are those of whole losses."""
        found: bool = self._balancer.weighs_losses
        return found

    @property
    def _balancer(self) -> Balancer:
        (made,) = self.made_of("balancer")
        assert isinstance(made, Balancer)
        return made

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        names = names_of(self.origin, gradients, self.average)
        weights, vector = parts(self._balancer.balance(losses, gradients), gradients.tasks, self._balancer.origin)
        if weights is None or vector is not None:
            raise PluginError(f"{self.origin}: {self._balancer.origin} answers with a direction, and has no weights")
        new = to_array(weights)
        known = np.array([name in self.average for name in names])
        mean = np.where(known, self.alpha * kept_of(self.average, names) + (1 - self.alpha) * new, new)
        self.average = with_kept(self.average, names, mean)
        return to_tensor(mean, losses)

    def parameters(self) -> list[nn.Parameter]:
        return self._balancer.parameters()
