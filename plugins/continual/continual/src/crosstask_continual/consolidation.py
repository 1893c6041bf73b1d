"""Quadratic penalties that hold weights near what earlier tasks need: λ/2 Σ A (θ - m)².

The sum over tasks of λ/2 Σ F_k (θ - θ_k)² is, up to a constant, one such penalty: A = Σ F_k, m = Σ F_k θ_k / A. So
neither memory nor time grows with the number of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crosstask.errors import RunError

Weights = dict[str, Tensor]


def weights_of(model: nn.Module) -> Weights:
    """A copy of every parameter that needs a gradient, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def fitted(values: Mapping[str, Tensor], model: nn.Module) -> Weights:
    """`values` in the shapes of the model's parameters: rows that a head has gained since are zero (so: free)."""
    found = {}
    for name, p in model.named_parameters():
        if name in values:
            known = values[name].to(p.device)
            if known.shape != p.shape:
                wider = known.new_zeros(p.shape)
                wider[tuple(slice(n) for n in known.shape)] = known
                known = wider
            found[name] = known
    return found


def merged(
    importance: Mapping[str, Tensor], centre: Mapping[str, Tensor], new: Mapping[str, Tensor], at: Mapping[str, Tensor]
) -> tuple[Weights, Weights]:
    """(A, m) of two quadratics in one; what is in `new` alone is taken as it is. Exact up to a constant."""
    total, middle = {}, {}
    for name, added in new.items():
        old = importance.get(name)
        if old is None:
            total[name], middle[name] = added.clone(), at[name].clone()
            continue
        total[name] = old + added
        shared = (old * centre[name] + added * at[name]) / total[name]
        middle[name] = torch.where(total[name] > 0, shared, at[name])
    return total, middle


def check_importance(importance: Mapping[str, Tensor], who: str, task_id: str, advice: str) -> None:
    """RunError if it is not finite, or zero everywhere: the penalty would do nothing, and nobody would see it."""
    sums = torch.stack([value.sum() for value in importance.values()])
    if not bool(torch.isfinite(sums).all()):
        raise RunError(f"{who}: the importance of weights after task {task_id!r} is not finite: the model has diverged")
    if not bool((sums > 0).any()):
        raise RunError(f"{who}: no weight is important after task {task_id!r}: its penalty would do nothing; {advice}")


class Pull:
    """The gradient of λ/2 Σ A (θ - m)², or its proximal step, for the parameters of a model.

    A few passes over the weights, whatever the number of tasks; nothing is differentiated.
    """

    def __init__(self, model: nn.Module, importance: Mapping[str, Tensor], centre: Mapping[str, Tensor]) -> None:
        known = dict(model.named_parameters())
        names = [n for n in importance if n in known and known[n].requires_grad]
        self.parameters: list[Tensor] = [known[n] for n in names]
        weights, centres = fitted(importance, model), fitted(centre, model)
        # of a complex weight both parts are held alike, and torch multiplies tensors of one type
        self.weights = [weights[n].to(known[n].dtype) for n in names]
        self.centres = [centres[n] for n in names]
        self.shares: list[Tensor] = []

    @torch.no_grad()
    def add_gradient(self, strength: float) -> None:
        """Add strength · A (θ - m) to every `.grad`."""
        for p in self.parameters:
            if p.grad is None:  # this step did not use it: the penalty still holds
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:
            away = torch._foreach_sub(self.parameters, self.centres)
            torch._foreach_addcmul_(gradients, away, self.weights, value=strength)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """θ <- argmin_x |x - θ|² / 2 + rate/2 Σ A (x - m)²: towards m by rate A / (1 + rate A), never beyond."""
        if not self.shares:
            self.shares = [rate * a / (1 + rate * a) for a in self.weights]
        if self.parameters:
            torch._foreach_lerp_(self.parameters, self.centres, self.shares)
