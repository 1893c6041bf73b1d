"""The `fed_reptile` federation."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from crosstask.options import component, option
from crosstask_fed_reptile.adapting import adapted
from crosstask_federation import Federation, Gathered, Local, Site, State, begun, like, trained_at
from crosstask_federation.tensors import Tensors


@component
class FedReptile(Federation):
    """Reptile with sites for tasks: each trains, and the server moves a part of the way to the mean of their weights,
    θ ← θ + `server_rate` (mean φ - θ). Nichol et al. (2018), algorithm 2; Jiang et al. (2019) say what it has in common
    with federated averaging. A site is served by its own model: `adapt_steps` steps on its data from what it received.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"additive", "personal"})
    shares: ClassVar[tuple[str, ...]] = ("weights", "buffers")

    server_rate: float = option(0.5, gt=0, le=1, help="part of the way to the mean of the sites' weights")
    adapt_steps: int = option(10, ge=1, help="steps on a site's data before its model is used")
    adapt_rate: float = option(0.05, gt=0, help="their size")

    def begin(self, network: nn.Module) -> State:
        return begun(network)

    def local(self, site: Site, sent: Tensors) -> Local:
        return trained_at(site, sent)

    def merge(self, state: State, gathered: Gathered) -> State:
        mean = like(gathered.total, state.shared)
        start = {
            name: old.lerp(mean[name], self.server_rate)
            for name, old in state.shared.items()
            if old.is_floating_point()
        }
        return State(mean | start)

    def model_for(self, site: Site, sent: Tensors) -> nn.Module:
        return adapted(site, site.received(sent), self.adapt_steps, self.adapt_rate)
