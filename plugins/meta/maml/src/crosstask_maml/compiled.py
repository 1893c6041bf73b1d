"""A step as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from crosstask.errors import OptionError
from crosstask.learning.batched import Batched
from crosstask.learning.functional import swapped


class Compiled:
    """`meta_gradients`, traced into one graph of tensor operations, inner gradients included, and compiled.

    One graph for each module and shape of episodes; making one takes a minute, so it pays from some thousand steps on.
    A graph holds what the module did when it was traced, so one that draws random numbers (dropout) is refused.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self.function = function
        self.graphs: dict[Any, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A graph stays in its process."""
        return {"function": self.function, "graphs": {}}

    def __call__(
        self,
        net: Batched,
        trained: Sequence[Tensor],
        parameters: Mapping[str, Tensor],
        rates: Any,
        order: Any,
        episodes: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        shapes = tuple((tuple(t.shape), t.dtype, t.device) for t in (*trained, *episodes))
        key = (id(net.module), net.module.training, order, rates if isinstance(rates, float) else None, shapes)
        if key not in self.graphs:
            self.graphs[key] = self._graph(net, trained, parameters, rates, order, episodes)
        found: tuple[Tensor, ...] = self.graphs[key]([t.detach() for t in trained], list(episodes))
        return found

    def _graph(
        self,
        net: Batched,
        trained: Sequence[Tensor],
        parameters: Mapping[str, Tensor],
        rates: Any,
        order: Any,
        episodes: Sequence[Tensor],
    ) -> Callable[..., Any]:
        place = {id(tensor): number for number, tensor in enumerate(trained)}
        names = {n: place[id(p)] for n, p in net.module.named_parameters() if id(p) in place}

        def flat(leaves: list[Tensor], batch: list[Tensor]) -> tuple[Tensor, ...]:
            moving = {name: leaves[place[id(p)]] for name, p in parameters.items()}
            own = rates if isinstance(rates, float) else {n: leaves[place[id(r)]] for n, r in rates.items()}
            with swapped(net.module, {name: leaves[number] for name, number in names.items()}):
                return self.function(net, leaves, moving, own, order, batch)

        leaves = [t.detach().clone().requires_grad_() for t in trained]
        graph = make_fx(flat)(leaves, list(episodes))
        for node in graph.graph.nodes:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise OptionError(
                    f"compile = true cannot be used with a model that draws random numbers ({node.target}): they would "
                    "be the same in every step; leave dropout out, or do not compile"
                )
        with torch.no_grad():
            compiled: Callable[..., Any] = torch.compile(graph)
        return compiled
