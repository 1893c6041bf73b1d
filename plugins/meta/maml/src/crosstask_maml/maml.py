"""MAML."""

from __future__ import annotations

from crosstask.options import component, option, state
from crosstask_maml.inner import InnerLoop, Order


@component
class MAML(InnerLoop):
    """Model-agnostic meta-learning: weights from which a few gradient steps on a support set lead to a good model.

    Finn, Abbeel, Levine (2017), arXiv:1703.03400, algorithm 2. The meta-gradient goes through the inner steps; with
    `first_order` they count as constants (section 5.2). `per_step` are the per-step losses of MAML++ (Antoniou et al.
    2019, arXiv:1810.09502, equation 3): the query losses after every inner step count, at first all the same, then over
    so many meta-steps less and less but for the last.
    """

    first_order: bool = option(False, help="leave out second derivatives: faster, usually about as good")
    per_step: int = option(0, ge=0, help="meta-steps over which earlier inner steps count too (0: the last only)")
    _done: int = state(0)

    def _order(self) -> Order:
        return Order(self.num_inner_steps, self.first_order, self._weights())

    def _weights(self) -> tuple[float, ...]:
        count = self.num_inner_steps
        if self._done >= self.per_step or count == 1:
            return ()
        each = (1 - self._done / self.per_step) / count
        return (each,) * (count - 1) + (1 - each * (count - 1),)

    def _ended(self) -> None:
        self._done += 1
