"""Training at a site, as federations of weights share it."""

from __future__ import annotations

from torch import Tensor, nn

from crosstask.learning.training import History, fit
from crosstask_federation.contract import Local, Site
from crosstask_federation.tensors import Tensors, state_of


def train_at(site: Site, network: nn.Module, *, mu: float = 0.0, steps: int | None = None) -> History:
    """Train a network in place on the site's data, as its budget says (`crosstask.learning.fit`). With `mu` each step
    is held to where it began: mu/2 |θ - θ₀|² is added to the loss (Li et al. 2020, equation 2).
    """
    start = [(p, p.detach().clone()) for p in network.parameters() if p.requires_grad]

    def proximal(inputs: object, outputs: Tensor) -> Tensor:
        return mu / 2 * sum(((p - old).square().sum() for p, old in start), outputs.new_zeros(()))

    return fit(
        network, site.task, site.budget, site.generator, steps=steps, penalty=proximal if mu else None, curve_split=None
    )


def trained_at(site: Site, sent: Tensors, stays: tuple[str, ...] = (), *, mu: float = 0.0) -> Local:
    """The weights after training from what the server sent; what stays at the site is kept there."""
    network = site.received(sent)
    train_at(site, network, mu=mu)
    shared, kept = state_of(network, stays)
    return Local(shared, kept)
