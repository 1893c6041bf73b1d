"""Meta-SGD."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.episodes import Episodes
from crosstask.options import component, option
from crosstask_maml.inner import InnerLoop, Order, Rates


class WithRates(nn.Module):
    """A model with a step size for each of its weights: `rates`, in the order of its trainable parameters."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        super().__init__()
        self.model = model
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.rates = nn.ParameterList(nn.Parameter(torch.full_like(p, rate)) for p in trainable)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.model(inputs)
        return found


@component
class MetaSGD(InnerLoop):
    """MAML that learns the inner step size of every single weight too, its sign included.

    Li, Zhou, Chen, Li (2017), arXiv:1707.09835. `prepare` puts the rates, all `lr_inner` at first, beside the model;
    the meta-steps train both. The paper takes one inner step.
    """

    num_inner_steps: int = option(1, ge=1, help="gradient steps of an adaptation")
    first_order: bool = option(False, help="leave out second derivatives of the loss; rates are learned all the same")

    def prepare(self, model: nn.Module, episodes: Episodes) -> nn.Module:
        return model if isinstance(model, WithRates) else WithRates(model, self.lr_inner)

    def _order(self) -> Order:
        return Order(self.num_inner_steps, self.first_order)

    def _module(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, WithRates):
            raise DataError(f"{self.origin}: the model has no inner step sizes yet; give it to `prepare` first")
        return model.model

    def _rates(self, model: nn.Module) -> Rates:
        rates = cast(WithRates, model).rates
        return dict(zip(self._moving(self._module(model)), rates, strict=True))
