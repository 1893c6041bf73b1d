"""The `l2_sp` transfer method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from crosstask.learning.training import History, fit
from crosstask.options import component, option
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_finetuning.partial import fit_head


@component
class L2SP(Transfer):
    """Fine-tuning with a decay towards the source's weights (Li et al. 2018, equation 2).

    Adds alpha/2 |w - w0|² for the weights that came from the source, w0, and beta/2 |w|² for those drawn
    anew. The head is fitted first, as in `lp_ft`, unless `head_share` is 0.
    """

    results_version: ClassVar[int] = 2  # features of the trunk are computed once

    alpha: float = option(0.1, ge=0, help="strength of the pull towards the source's weights")
    beta: float = option(0.01, ge=0, help="strength of the decay of new weights to zero")
    head_share: float = option(0.5, ge=0, lt=1, help="share of the steps for the head alone")
    head_rate: float = option(10.0, gt=0, help="learning rate of the head alone, as a multiple of the budget's")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        kept, starts, new = _divide(model, source)
        first = round(self.head_share * budget.steps)
        history = fit_head(model, task, budget, generator, first, self.head_rate) if first else History()

        def penalty(inputs: Tensor, outputs: Tensor) -> Tensor:
            total = outputs.new_zeros(())
            for parameter, start in zip(kept, starts, strict=True):
                total = total + self.alpha / 2 * _square(parameter - start)
            for parameter in new:
                total = total + self.beta / 2 * _square(parameter)
            return total

        return history.extend(fit(model, task, budget, generator, steps=budget.steps - first, penalty=penalty))


def _square(weights: Tensor) -> Tensor:
    """|weights|²: of complex ones the squares of both parts."""
    return (torch.view_as_real(weights) if weights.is_complex() else weights).square().sum()


def _divide(model: nn.Module, source: nn.Module) -> tuple[list[nn.Parameter], list[Tensor], list[nn.Parameter]]:
    """(parameters that came from the source, their values, parameters drawn anew)."""
    theirs = dict(source.named_parameters())
    kept, starts, new = [], [], []
    for name, parameter in model.named_parameters():
        other = theirs.get(name)
        if other is not None and other.shape == parameter.shape and torch.equal(other, parameter):
            kept.append(parameter)
            starts.append(other.detach().clone())
        else:
            new.append(parameter)
    return kept, starts, new
