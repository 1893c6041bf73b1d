"""First-order MAML."""

from __future__ import annotations

from crosstask.options import component
from crosstask_maml.inner import InnerLoop, Order


@component
class MAMLFirstOrder(InnerLoop):
    """MAML without second derivatives: the meta-gradient is that of the query loss at the adapted weights.

    Finn, Abbeel, Levine (2017), arXiv:1703.03400, section 5.2; FOMAML in Nichol et al. (2018), arXiv:1803.02999.
    """

    def _order(self) -> Order:
        return Order(self.num_inner_steps, first=True)
