"""Reading autograd graphs: which loss reaches which parameter, and which parameters are those of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, distributed, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

Node = Any  # torch.autograd.graph.Node declares neither `next_functions` nor `_saved_*` for type checkers


@attrs.frozen(eq=False)
class Use:
    """One matrix product of a linear layer: its place in the graph, its input [N, in], and the losses above it."""

    node: Node
    inputs: Tensor
    reach: int

    @property
    def edge(self) -> GradientEdge:
        return GradientEdge(self.node, 0)


@attrs.frozen(eq=False)
class LinearLayer:
    """A weight [out, in] that is used in products X @ weight.T only, and its bias if that is used with it only."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    uses: tuple[Use, ...]


class Graph:
    """The joint graph of several losses, walked once.

    `reach` of a node is a bit mask of the losses that it has a part in. `stacked`: the losses are parts of one tensor
    that they were put into before, so that each reaches whatever any of them does.
    """

    def __init__(self, losses: Sequence[Tensor]) -> None:
        self.losses = len(losses)
        self._edges: dict[Node, tuple[tuple[Node, int], ...]] = {}
        order = self._postorder(losses)
        self.reach: dict[Node, int] = dict.fromkeys(order, 0)
        self._users: dict[Node, list[tuple[Node, int]]] = {}
        for number, loss in enumerate(losses):
            self.reach[get_gradient_edge(loss).node] |= 1 << number
        roots = [get_gradient_edge(loss).node for loss in losses]
        self.stacked = len(losses) > 1 and any(_parts_a_stack(root) for root in roots)
        self.leaves: dict[nn.Parameter, Node] = {}
        for node in reversed(order):  # losses first: all users of a node come before it
            mask, edges = self.reach[node], self._edges[node]
            for place, (below, _) in enumerate(edges):
                if below is not None:
                    self.reach[below] |= mask
                    if type(below).__name__ in _FOLLOWED:
                        self._users.setdefault(below, []).append((node, place))
            if not edges and hasattr(node, "variable"):
                self.leaves[node.variable] = node

    def _postorder(self, losses: Sequence[Tensor]) -> list[Node]:
        order: list[Node] = []
        stack: list[tuple[Node, bool]] = [(get_gradient_edge(loss).node, False) for loss in reversed(losses)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in self._edges:
                edges = self._edges[node] = node.next_functions
                stack.append((node, True))
                stack += [(below, False) for below, _ in edges if below is not None and below not in self._edges]
        return order

    def reach_of(self, parameter: nn.Parameter) -> int:
        """Bit mask of the losses that depend on a parameter."""
        node = self.leaves.get(parameter)
        return 0 if node is None else self.reach[node]

    def is_led_through_one_node(self) -> bool:
        """Whether what DistributedDataParallel returns was led through a node of its own, as it does to look for unused
        parameters: above it nothing is known of which loss reaches what.
        """
        if not distributed.is_available() or not distributed.is_initialized():
            return False
        found = (node for node in self._edges if type(node).__name__ == "_DDPSinkBackward")
        return any(self.reach[node].bit_count() > 1 for node in found)

    def fork(self) -> GradientEdge | None:
        """The one place where the graphs of all losses meet: the shared representation. None if there are several."""
        everything = (1 << self.losses) - 1
        meeting = {
            (below, output)
            for node, edges in self._edges.items()
            if self.reach[node].bit_count() == 1
            for below, output in edges
            if below is not None and self.reach[below].bit_count() > 1
        }
        nodes = {node for node, _ in meeting}
        if len(nodes) != 1:
            return None
        node, output = meeting.pop()
        if meeting:  # the representation was split into a part for each task: take it whole
            if len(self._edges[node]) != 1:
                return None
            node, output = self._edges[node][0]
        if node is None or self.reach[node] != everything or not self._edges[node]:
            return None
        return GradientEdge(node, output)

    def users_of(self, edge: GradientEdge) -> list[tuple[Node, int]] | None:
        """Nodes that take a tensor as this argument; None if one of them is part of more than one loss."""
        wanted = (edge.node, edge.output_nr)
        found = [(node, place) for node, below in self._edges.items() for place, x in enumerate(below) if x == wanted]
        return found if all(self.reach[node].bit_count() == 1 for node, _ in found) else None

    def avoiding(self, losses: Sequence[Tensor], blocked: set[Node]) -> set[nn.Parameter]:
        """Parameters that some loss reaches without passing through any of the `blocked` nodes."""
        seen, stack = set(blocked), [loss.grad_fn for loss in losses]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack += [below for below, _ in self._edges[node]]
        return {p for p, node in self.leaves.items() if node in seen}

    def linear_layers(self, parameters: Sequence[nn.Parameter]) -> list[LinearLayer]:
        """The layers among `parameters` that are used in no other way than as linear layers.

        Whatever is not recognised beyond doubt is left out: its gradient is to be computed by autograd.
        """
        places: dict[nn.Parameter, dict[Node, Tensor]] = {}
        biases: dict[frozenset[Node], nn.Parameter] = {}
        for parameter in parameters:
            if parameter not in self.leaves or parameter._backward_hooks:  # a hook may change the gradient
                continue
            if parameter.ndim == 2:
                found = self._products(parameter)
                if found:
                    places[parameter] = found
            elif parameter.ndim == 1:
                nodes = self._additions(parameter)
                if nodes:
                    biases[nodes] = parameter
        return [
            LinearLayer(weight, biases.get(frozenset(found)), tuple(Use(n, x, self.reach[n]) for n, x in found.items()))
            for weight, found in places.items()
        ]

    def _products(self, weight: nn.Parameter) -> dict[Node, Tensor]:
        """Each node that computes X @ weight.T, with X; nothing if the weight is also used in another way."""
        found: dict[Node, Tensor] = {}
        for transpose, _ in self._uncast(weight):
            if transpose.name() != "TBackward0":
                return {}
            for node, place in self._users[transpose]:
                inputs = _left_factor(node, place)
                if inputs is None or node in found or inputs.device != weight.device:
                    return {}
                if inputs.ndim != 2 or inputs.shape[1] != weight.shape[1] or not inputs.is_floating_point():
                    return {}
                found[node] = inputs
        return found

    def _additions(self, bias: nn.Parameter) -> frozenset[Node]:
        """Each node of a linear layer that adds the bias; nothing if it is also used in another way."""
        users = self._uncast(bias)
        if all(n.name() == "AddmmBackward0" and place == 0 and n._saved_beta == 1 for n, place in users):
            nodes = frozenset(node for node, _ in users)
            return nodes if len(nodes) == len(users) else frozenset()
        return frozenset()

    def _uncast(self, parameter: nn.Parameter) -> list[tuple[Node, int]]:
        """The users of a parameter, or of what autocast made of it."""
        users: list[tuple[Node, int]] = []
        stack = [self.leaves[parameter]]
        while stack:
            for node, place in self._users.get(stack.pop(), ()):
                if node.name() == "ToCopyBackward0":
                    stack.append(node)
                else:
                    users.append((node, place))
        return users


_FOLLOWED = frozenset({"AccumulateGrad", "TBackward0", "ToCopyBackward0"})


def _parts_a_stack(root: Node) -> bool:
    below = root.next_functions[0][0] if root.name() in ("UnbindBackward0", "SelectBackward0") else None
    return below is not None and below.name() in ("StackBackward0", "CatBackward0")


def _left_factor(node: Node, place: int) -> Tensor | None:
    """X of a product X @ B, if argument `place` of `node` is B and nothing scales the product."""
    try:
        if node.name() == "AddmmBackward0" and place == 2 and node._saved_alpha == 1:
            saved = node._saved_mat1
        elif node.name() == "MmBackward0" and place == 1:
            saved = node._saved_self
        else:
            return None
    except (RuntimeError, AttributeError):  # freed, changed in place, another version of torch: autograd will say
        return None
    return saved.detach() if isinstance(saved, Tensor) and saved.layout is torch.strided else None


def shared_leaves(
    losses: Sequence[Tensor], graph: Graph | None = None
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(parameters that two or more losses reach, parameters that exactly one reaches), by walking the graphs.

    With a single loss everything counts as shared.
    """
    graph = graph or Graph(losses)
    least = min(2, len(losses))
    counts = [(leaf, graph.reach[node].bit_count()) for leaf, node in graph.leaves.items()]
    return [p for p, n in counts if n >= least], [p for p, n in counts if n < least]
