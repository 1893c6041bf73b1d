"""The `per_fedavg` federation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from crosstask.errors import RunError
from crosstask.learning.functional import swapped
from crosstask.learning.training import device_of
from crosstask.options import component, option
from crosstask_fed_reptile.adapting import adapted, batch_of, gradients, loss_at, trained_weights
from crosstask_federation import Federation, Gathered, Local, Site, State, begun, like, state_of
from crosstask_federation.tensors import Tensors


@component
class PerFedAvg(Federation):
    """A start that is good after one step at each site: F(θ) is the mean over the sites of f(θ - α ∇f(θ)) (Fallah et
    al. 2020, equation 3). In each of the budget's steps a site moves θ by its learning rate times the exact gradient
    (I - α ∇²f(θ)) ∇f(θ - α ∇f(θ)), each factor on a batch of its own, or with order `first` by the last factor alone;
    the server takes the mean by samples. A site is served by the start after `adapt_steps` steps of size α on its data.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"additive", "personal"})
    shares: ClassVar[tuple[str, ...]] = ("weights", "buffers")

    alpha: float = option(0.05, gt=0, help="size of a site's own step")
    order: str = option("full", choices=("full", "first"), help="with the second derivative, or without")
    adapt_steps: int = option(1, ge=1, help="steps on a site's data before its model is used; the paper's is 1")

    def begin(self, network: nn.Module) -> State:
        return begun(network)

    def local(self, site: Site, sent: Tensors) -> Local:
        network = site.received(sent).train()
        data = site.task.data("train").head(site.budget.samples).to(device_of(network))
        for step in range(site.budget.steps):
            own = trained_weights(network)
            weights = list(own.values())
            inner = gradients(loss_at(network, site, batch_of(data, site)), weights, create_graph=self.order == "full")
            moved = [weight - self.alpha * g for weight, g in zip(weights, inner, strict=True)]
            with swapped(network, dict(zip(own, moved, strict=True))):
                loss = loss_at(network, site, batch_of(data, site))
            if not bool(torch.isfinite(loss)):
                raise RunError(f"the loss is {float(loss.detach())} at step {step + 1}; try a smaller learning rate")
            found = gradients(loss, weights if self.order == "full" else moved)
            with torch.no_grad():
                for weight, gradient in zip(weights, found, strict=True):
                    weight.sub_(site.budget.learning_rate * gradient)
        return Local(*state_of(network))

    def merge(self, state: State, gathered: Gathered) -> State:
        return State(like(gathered.total, state.shared))

    def model_for(self, site: Site, sent: Tensors) -> nn.Module:
        return adapted(site, site.received(sent), self.adapt_steps, self.alpha)
