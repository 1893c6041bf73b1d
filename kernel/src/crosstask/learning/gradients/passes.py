"""The backward passes of the gradient engine: what is differentiated, how often, and where the results go."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from crosstask.errors import RunError
from crosstask.learning.gradients.checks import clear_errors
from crosstask.learning.gradients.graph import Graph
from crosstask.learning.gradients.layers import LayerGradients


def scaled_seeds(weights: Tensor, losses: list[Tensor], scale: float) -> list[Tensor]:
    """What the backward pass of a weighted sum of losses starts from."""
    return [(weight * scale).to(loss) for weight, loss in zip(weights.unbind(), losses, strict=True)]


@attrs.define(eq=False, slots=False)
class Passes:
    """Backward passes over several losses, all of them multiplied by `scale`.

    On the way each finds the gradients on task-specific parameters (`own`: for each parameter pairs of loss and
    gradient) and which rows of embeddings with sparse gradients were touched (`sparse`).
    """

    losses: list[Tensor]
    graph: Graph
    specific: list[nn.Parameter]
    scale: float
    retain_graph: bool
    own: dict[nn.Parameter, list[tuple[int, Tensor]]] = attrs.field(factory=dict)
    sparse: dict[nn.Parameter, Tensor] = attrs.field(factory=dict)

    def weighted(self, weights: Tensor, inputs: list[nn.Parameter], keep: bool) -> list[Tensor | None]:
        """One pass over the weighted sum of the losses: gradients on `inputs`."""
        return self._grad(self.losses, inputs, scaled_seeds(weights, self.losses, self.scale), keep)

    def one_by_one(self, layers: list[LayerGradients], formed: list[nn.Parameter], buffer: Tensor) -> None:
        """A pass for each loss: output gradients of the layers, gradients of `formed` into the rows of `buffer`."""
        edges: list[Any] = [use.edge for x in layers for use in x.layer.uses]
        for task in range(len(self.losses)):
            keep = self.retain_graph or task < len(self.losses) - 1
            found = self._of(task, [*edges, *formed], keep)
            place = 0
            for layer in layers:
                layer.put(task, found[place : place + len(layer.layer.uses)])
                place += len(layer.layer.uses)
            self._fill(buffer[task], formed, found[place:])

    def batched(self, formed: list[nn.Parameter], buffer: Tensor, memory: int | None) -> None:
        """Each loss's pass down to the shared representation, then all of them at once below it, in chunks."""
        fork = self.graph.fork()
        if fork is not None and self.graph.avoiding(self.losses, {fork.node}).intersection(formed):
            fork = None  # what is shared is not all below it
        tasks = len(self.losses)
        above = [self._of(task, [] if fork is None else [fork], True) for task in range(tasks)]
        outputs: list[Any]
        if fork is not None:
            outputs, directions = [fork], torch.stack([g for (g,) in above if g is not None])
        else:
            outputs = [torch.stack(self.losses)]
            directions = torch.eye(tasks, dtype=outputs[0].dtype, device=outputs[0].device) * self.scale
        each = 4 * sum(p.numel() * p.element_size() for p in formed)  # the gradients, and what is on the way
        chunk = tasks if memory is None else max(1, int(memory // max(1, each)))
        for first in range(0, tasks, chunk):
            part = directions[first : first + chunk]
            keep = self.retain_graph or first + chunk < tasks
            found = self._grad(outputs, formed, [part], keep, batched=True)
            for offset in range(len(part)):
                self._fill(buffer[first + offset], formed, [None if g is None else g[offset] for g in found])

    def to_features(self, features: list[Any]) -> tuple[list[list[Tensor | None]], str]:
        """Gradients of each loss on each of the features, and how: the heads only are differentiated."""
        users = self._users(features)
        if users is not None:
            return self._in_one_pass(features, users), "one backward pass"
        if any(isinstance(f, Tensor) and f._backward_hooks for f in features):
            raise RunError("a backward hook on the features would be applied twice: put it on what they are made of")
        found = [self._of(task, features, True) for task in range(len(self.losses))]
        return found, f"{len(found)} backward passes"

    def below(self, features: list[Any], shared: list[nn.Parameter], seeds: list[Tensor]) -> list[Tensor | None]:
        """From gradients of the features to those of the parameters."""
        return self._grad(features, shared, seeds, self.retain_graph)

    # --- How

    def _grad(
        self, outputs: Sequence[Any], inputs: Sequence[Any], seeds: list[Tensor], keep: bool, batched: bool = False
    ) -> list[Tensor | None]:
        with clear_errors():
            return list(
                torch.autograd.grad(
                    outputs, inputs, seeds, allow_unused=True, retain_graph=keep, is_grads_batched=batched
                )
            )

    def _of(self, task: int, inputs: list[Any], keep: bool) -> list[Tensor | None]:
        """Gradients of one loss on `inputs`; those on its own parameters are kept."""
        own, loss = self._specific_of[task], self.losses[task]
        if not inputs and not own:
            return []
        found = self._grad([loss], [*inputs, *own], [torch.full_like(loss, self.scale)], keep)
        for parameter, gradient in zip(own, found[len(inputs) :], strict=True):
            self._keep(parameter, task, gradient)
        return found[: len(inputs)]

    def _keep(self, parameter: nn.Parameter, task: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            unscaled = gradient if self.scale == 1.0 else gradient / self.scale
            self.own.setdefault(parameter, []).append((task, unscaled))

    @functools.cached_property
    def _specific_of(self) -> list[list[nn.Parameter]]:
        """For each loss, the specific parameters that it reaches."""
        found: list[list[nn.Parameter]] = [[] for _ in self.losses]
        for parameter in self.specific:
            reach = self.graph.reach_of(parameter)
            while reach:
                found[reach.bit_length() - 1].append(parameter)
                reach &= ~(1 << (reach.bit_length() - 1))
        return found

    def _fill(self, row: Tensor, formed: list[nn.Parameter], found: Sequence[Tensor | None]) -> None:
        """One loss's gradients, one after the other, into its row (zeros)."""
        parts = [g.reshape(-1) for g in found if g is not None and not g.is_sparse and g.dtype is row.dtype]
        if parts and len(parts) == len(found):  # nearly always: one copy instead of many
            torch.cat(parts, out=row)
            return
        offset = 0
        for parameter, gradient in zip(formed, found, strict=True):
            if gradient is not None:  # a task need not reach every shared parameter
                dense = gradient
                if gradient.is_sparse:
                    self._remember_rows(parameter, gradient)
                    dense = gradient.to_dense()
                row[offset : offset + parameter.numel()].view_as(parameter).copy_(dense)
            offset += parameter.numel()

    def _remember_rows(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        rows = gradient.coalesce().indices()[0]
        known = self.sparse.get(parameter)
        self.sparse[parameter] = rows if known is None else torch.cat([known, rows]).unique()  # type: ignore[no-untyped-call]

    def _users(self, features: list[Any]) -> list[tuple[Any, int]] | None:
        """Who uses the features, if each user and each specific parameter belongs to a single loss."""
        if len(features) != 1 or any(self.graph.reach_of(p).bit_count() != 1 for p in self.specific):
            return None
        given: Tensor | GradientEdge = features[0]
        return self.graph.users_of(get_gradient_edge(given) if isinstance(given, Tensor) else given)

    def _in_one_pass(self, features: list[Any], users: list[tuple[Any, int]]) -> list[list[Tensor | None]]:
        """One pass for all losses, that catches what each user of the features sends down before it is summed."""
        caught: list[list[Tensor | None]] = [[None] for _ in self.losses]

        def catch(task: int, place: int) -> Callable[[tuple[Tensor | None, ...], object], None]:
            def hook(inputs: tuple[Tensor | None, ...], _: object) -> None:
                gradient, known = inputs[place], caught[task][0]
                if gradient is not None:
                    caught[task][0] = gradient if known is None else known + gradient

            return hook

        reach = self.graph.reach
        handles = [node.register_hook(catch(reach[node].bit_length() - 1, place)) for node, place in users]
        try:
            seeds = [torch.full_like(loss, self.scale) for loss in self.losses]
            found = self._grad(self.losses, [*features, *self.specific], seeds, True)
        finally:
            for handle in handles:
                handle.remove()
        for parameter, gradient in zip(self.specific, found[1:], strict=True):
            self._keep(parameter, self.graph.reach_of(parameter).bit_length() - 1, gradient)
        return caught
