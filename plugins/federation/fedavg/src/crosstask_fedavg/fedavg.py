"""The `fedavg` federation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from crosstask.errors import OptionError, nearest
from crosstask.options import component, option
from crosstask_federation import (
    LOCAL,
    Federation,
    Gathered,
    Local,
    Site,
    State,
    begun,
    like,
    named,
    of_form,
    trained_at,
)
from crosstask_federation.tensors import Tensors


@component
class FedAvg(Federation):
    """Sites train from the server's weights, and the server takes the mean of theirs, by their samples: McMahan et al.
    (2017), algorithm 1. One step on all of a site's data makes a round a step of gradient descent on all data.

    With `mu` it is FedProx (Li et al. 2020, equation 2): a site is held to where it began. `server_momentum` and
    `server_rate` treat the mean change as a gradient (Hsu et al. 2019, FedAvgM): v ← β v + (θ - mean), θ ← θ - η v.

    Buffers, as BatchNorm's statistics, are averaged, whole numbers among them rounded. `keep` names what stays at each
    site instead: `batch_norm` (Li et al. 2021, FedBN: weights and statistics of these layers) and `head` (Arivazhagan
    et al. 2019, FedPer; sites may then have other classes).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"additive"})
    shares: ClassVar[tuple[str, ...]] = ("weights", "buffers")

    mu: float = option(0.0, ge=0, help="of mu/2 |θ - θ₀|², by which a site is held to where it began; 0: FedAvg")
    server_rate: float = option(1.0, gt=0, help="part of the way to the mean")
    server_momentum: float = option(0.0, ge=0, lt=1, help="what remains of earlier rounds' change")
    keep: tuple[str, ...] = option((), help="what stays at each site: batch_norm, head, both")

    def __attrs_post_init__(self) -> None:
        for each in self.keep:
            if each not in LOCAL:
                raise OptionError(f"FedAvg: keep cannot name {each!r}{nearest(each, LOCAL)}")

    @property
    def stays(self) -> tuple[str, ...]:
        return self.keep

    def begin(self, network: nn.Module) -> State:
        return begun(network, self.keep)

    def local(self, site: Site, sent: Tensors) -> Local:
        return trained_at(site, sent, self.keep, mu=self.mu)

    @torch.no_grad()
    def merge(self, state: State, gathered: Gathered) -> State:
        mean = like(gathered.total, state.shared)
        if self.server_rate == 1 and not self.server_momentum:
            return State(mean)
        velocity, before = {}, of_form("velocity", state.own)
        for name, old in state.shared.items():
            if name.startswith("weights/"):
                velocity[name] = self.server_momentum * before.get(name, torch.zeros_like(old)) + (old - mean[name])
        moved = {name: state.shared[name] - self.server_rate * v for name, v in velocity.items()}
        return State(mean | moved, named("velocity", velocity))
