"""The sites vote on which way each weight goes."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from crosstask.options import component, option
from crosstask_federation import Federation, Gathered, Local, Site, State, begun, named, of_form, trained_at
from crosstask_federation.tensors import Tensors


@component
class ExampleFederation(Federation):
    """A site trains, and answers with the sign of what each weight has changed by; the server moves each weight by a
    step in the direction of the votes, each of which counts by the site's samples.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"additive"})
    shares: ClassVar[tuple[str, ...]] = ("signs",)

    step: float = option(0.02, gt=0, help="by which a weight moves where all sites agree")

    def begin(self, network: nn.Module) -> State:
        return begun(network)

    def local(self, site: Site, sent: Tensors) -> Local:
        found, old = of_form("weights", trained_at(site, sent).shared), of_form("weights", sent)
        return Local(named("signs", {name: (found[name] - old[name]).sign() for name in found}))

    def merge(self, state: State, gathered: Gathered) -> State:
        votes = of_form("signs", gathered.total)
        moved = {f"weights/{name}": state.shared[f"weights/{name}"] + self.step * vote for name, vote in votes.items()}
        return State(state.shared | moved)
