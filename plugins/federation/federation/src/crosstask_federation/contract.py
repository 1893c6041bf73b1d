"""Federation: what a site computes from the server's state, and what the server makes of the sites' answers."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.errors import PluginError
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_federation.tensors import Tensors, put, state_of


@attrs.frozen(eq=False)
class State:
    """What the server knows after a round: `shared` is sent to every site that is asked in the next, `own` is not."""

    shared: Tensors
    own: Tensors = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Site:
    """What there is at a site: its own data, a network to work with (in place), what it kept of earlier rounds, what it
    may spend in a round, and random numbers.
    """

    name: str
    task: Task
    network: nn.Module
    budget: Budget
    generator: torch.Generator
    kept: Tensors = attrs.field(factory=dict)

    def received(self, sent: Tensors) -> nn.Module:
        """The network with what the server sent and, over that, what the site kept."""
        return put(put(self.network, sent), self.kept)


@attrs.frozen(eq=False)
class Local:
    """What a site has computed: `shared` leaves it, nothing else does; `kept` stays there for its next round."""

    shared: Tensors
    kept: Tensors = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Gathered:
    """What came back in a round, in the order of `sites`, those that answered. `weights` [K] sum to one.

    Of an additive federation `total` is the sum over the sites of weight times tensor (with `weighted` False: of the
    tensors), and `each` is empty: the server has no more. Of another, `each` holds what every site sent.
    """

    sites: tuple[str, ...]
    weights: Tensor
    total: Tensors = attrs.field(factory=dict)
    each: tuple[Tensors, ...] = ()


class Federation(Component):
    """A way to learn from sites that keep their data. In a round the server sends `State.shared` to some sites, each
    answers with the `Local.shared` of what `local` computes there, and `merge` makes the next state of the answers.

    `local` and `model_for` work where the site is, perhaps in another process, with that site's data alone: they are no
    hooks, and must not keep anything in the component. Names of tensors begin with a form (`weights/…`); what a site
    answers under a form that `shares` does not name is refused, so that `shares` says what can leave a site.

    Capabilities: `additive` (the server needs only the sum of the answers, so that secure sums can hide each),
    `personal` (a site's model learns from its data before it is used).
    """

    point: ClassVar[str] = "federation"

    shares: ClassVar[tuple[str, ...]]
    """The forms of what leaves a site, such as `weights` and `buffers`. The number of its training samples does too."""

    weighted: ClassVar[bool] = True
    """Whether the sites of a sum count by their training samples; False: what they send is summed as it is."""

    @property
    def stays(self) -> tuple[str, ...]:
        """Which parts of a network stay at the sites (see `crosstask_federation.LOCAL`): each site then has its own."""
        return ()

    @property
    def whole(self) -> bool:
        """Whether the server's state makes a model that can be used by itself."""
        return not self.stays

    @abstractmethod
    @hook(first=True, returns=State)
    def begin(self, network: nn.Module) -> State:
        """The state before the first round, for a network of the sites' kind; `network` stays as it is."""

    @abstractmethod
    def local(self, site: Site, sent: Tensors) -> Local:
        """What a site computes in a round. Everything random follows from `site.generator` and from torch's global
        numbers, which are seeded here. An exception is this site's failure in this round.
        """

    @abstractmethod
    @hook(first=True, returns=State)
    def merge(self, state: State, gathered: Gathered) -> State:
        """The next state; `state` stays as it is. Nothing random."""

    def model_for(self, site: Site, sent: Tensors) -> nn.Module:
        """The model that a site uses: by default what it received, with what it kept."""
        return site.received(sent)

    @final
    def checked(self, found: object, site: str) -> Local:
        """PluginError unless an answer is a `Local` whose forms are those that the federation says it shares."""
        if not isinstance(found, Local):
            raise PluginError(f"{self.origin}: local must return a Local, got a {type(found).__name__}")
        for name in found.shared:
            if name.partition("/")[0] not in self.shares:
                told = ", ".join(self.shares)
                raise PluginError(f"{self.origin}: site {site!r} answers with {name!r}; it says that it shares {told}")
        return found


def begun(network: nn.Module, stays: tuple[str, ...] = ()) -> State:
    """The state of a federation of weights: those of the network, but for what stays at the sites."""
    return State(state_of(network, stays)[0])
