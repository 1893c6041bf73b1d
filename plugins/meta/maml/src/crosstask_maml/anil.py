"""ANIL."""

from __future__ import annotations

from torch import nn

from crosstask.learning.modules import head_of
from crosstask.options import component, option
from crosstask_maml.inner import InnerLoop, Order


@component
class ANIL(InnerLoop):
    """Almost no inner loop: only the head adapts, the meta-steps train everything.

    Raghu et al. (2020), arXiv:1909.09157. The head is the module named `head`, else the last linear layer. In a module
    made of layers in a row the features are computed once for all inner steps.
    """

    first_order: bool = option(False, help="leave out second derivatives")

    def _order(self) -> Order:
        return Order(self.num_inner_steps, self.first_order)

    def _moving(self, module: nn.Module) -> dict[str, nn.Parameter]:
        inside = {id(p) for p in head_of(module).parameters()}  # by themselves: a tied weight has another name
        return {name: p for name, p in module.named_parameters() if p.requires_grad and id(p) in inside}
