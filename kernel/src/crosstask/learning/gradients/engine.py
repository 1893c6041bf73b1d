"""The gradient engine: gradients of several losses by autograd, the cheapest exact way for what is asked of them.

- Nothing is asked: one backward pass over the weighted sum of the losses.
- Inner products are asked: one pass per loss that stops at the outputs of the linear layers, whose weights' gradients
  are never formed (`LayerGradients`); all other parameters through one buffer. The update is one weight product.
- The matrix is asked: one pass per loss into one buffer [T, D], or batched passes.
- On shared features instead of parameters: one pass per loss down to the features, one below them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from crosstask.errors import OptionError, RunError, nearest
from crosstask.learning.gradients.accumulate import accumulate, only_rows, weighted_sum
from crosstask.learning.gradients.base import TaskGradients, inner_products, lost
from crosstask.learning.gradients.checks import (
    GradientOverflowError,
    called,
    check_losses,
    check_parameters,
    clear_errors,
)
from crosstask.learning.gradients.collective import Group
from crosstask.learning.gradients.graph import Graph, shared_leaves
from crosstask.learning.gradients.layers import LayerGradients
from crosstask.learning.gradients.passes import Passes, scaled_seeds

Mode = Literal["auto", "layers", "matrix", "batched"]
"""`layers`: from the inputs and output gradients of all linear layers. `matrix`: form every gradient, pass by pass.
`batched`: form them with batched passes. `auto`: the cheaper of the first two, layer by layer."""


class LossGradients(TaskGradients):
    """Gradients of scalar losses by autograd: nothing is computed until something is asked for, and then once.

    `chosen` says which way was taken. Inner products and matrix are at least float32, whatever the parameters are;
    inner products are float64 where squares of lengths leave its range.
    """

    def __init__(
        self,
        losses: Sequence[Tensor],
        shared: Sequence[nn.Parameter] | None,
        specific: Sequence[nn.Parameter] | None = (),
        *,
        features: Tensor | Sequence[Tensor] | bool = (),
        mode: Mode = "auto",
        memory: int | None = None,
        scale: float = 1.0,
        group: Group | None = None,
        retain_graph: bool = False,
        names: Sequence[str] = (),
    ) -> None:
        self.losses, self._given, self._given_specific = list(losses), shared, specific
        self.tasks, self.mode, self.memory, self.scale = len(losses), mode, memory, scale
        self.group, self.retain_graph = group or Group(False), retain_graph
        self._given_features = features
        if names:
            self.name(names)
        self.chosen = "nothing yet"
        self._layers: list[LayerGradients] = []
        self._formed: list[nn.Parameter] = []  # parameters whose gradients are in the buffer
        self._buffer: Tensor | None = None
        self._gramian: Tensor | None = None
        self._shapes: list[tuple[torch.Size, torch.dtype]] = []  # of the features

    # --- What it is about, found out when it is needed

    @functools.cached_property
    def graph(self) -> Graph:
        """The losses' joint autograd graph."""
        return Graph(self.losses)

    @functools.cached_property
    def shared(self) -> list[nn.Parameter]:
        """Parameters whose gradients are balanced: those given, or those that two or more losses reach."""
        if self._given is None:
            if self.graph.stacked:
                raise RunError(
                    "the losses were stacked into one tensor, whose graph says nothing about which loss reaches what: "
                    "give them as a list, or name the `shared` parameters"
                )
            if self.graph.is_led_through_one_node():
                raise RunError(
                    "DistributedDataParallel leads all losses through one node here, so that each seems to reach every "
                    "parameter: make it without find_unused_parameters and static_graph, or name `shared` parameters"
                )
            found = shared_leaves(self.losses, self.graph)[0]
        else:
            found = list(dict.fromkeys(p for p in self._given if p.requires_grad))
        check_parameters(found)
        self.group.check(self.tasks, sum(p.numel() for p in found))
        return found

    @functools.cached_property
    def specific(self) -> list[nn.Parameter]:
        """All other parameters that get a gradient: those given, or whatever else the losses reach."""
        if self._given_specific is None:
            shared = set(self.shared)
            return [p for p in self.graph.leaves if p not in shared]
        found = list(dict.fromkeys(p for p in self._given_specific if p.requires_grad))
        if set(found) & set(self.shared):
            raise ValueError("a parameter is both shared and task-specific")
        return found

    @functools.cached_property
    def features(self) -> list[Any]:
        """Where gradients are taken instead of on the parameters, as inputs of autograd; empty for the parameters."""
        given = self._given_features
        found: list[Any]
        nodes: set[Any]
        if isinstance(given, bool):
            fork = self.graph.fork() if given else None
            if given and fork is None:
                raise RunError("the losses meet in no single tensor: name the shared features, `features=`")
            found, nodes = ([fork], {fork.node}) if fork else ([], set())
        else:
            found = [given] if isinstance(given, Tensor) else list(given)
            if any(f.grad_fn is None for f in found):
                raise RunError("features must be computed from the shared parameters, with a graph")
            nodes = {f.grad_fn for f in found}
        if found:
            past = self.graph.avoiding(self.losses, nodes).intersection(self.shared)
            if past:
                shapes = ", ".join(str(tuple(p.shape)) for p in past)
                raise RunError(f"shared parameters of shape {shapes} are reached past the features: name those too")
        return found

    @functools.cached_property
    def _passes(self) -> Passes:
        return Passes(self.losses, self.graph, self.specific, self.scale, self.retain_graph)

    @functools.cached_property
    def size(self) -> int:
        """D, the number of shared values."""
        return sum(p.numel() for p in self.shared)

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """Of inner products and of the matrix."""
        return functools.reduce(torch.promote_types, (p.dtype for p in self.shared), torch.float32)

    @functools.cached_property
    def _spans(self) -> dict[nn.Parameter, slice]:
        ends = itertools.accumulate(p.numel() for p in self.shared)
        return {p: slice(end - p.numel(), end) for p, end in zip(self.shared, ends, strict=True)}

    # --- What a balancer asks

    @property
    def formed(self) -> bool:
        """Whether backward passes were made."""
        return self._buffer is not None

    @property
    def matrix(self) -> Tensor:
        if self._buffer is None and not self.features and not self.sharded:
            self._buffer = self._collect([])
        buffer = self._collected()
        if self._layers:
            buffer = self._form_layers(buffer)
        return buffer

    @property
    def gramian(self) -> Tensor:
        if self._gramian is None:
            buffer = self._collected()
            self._gramian = self._over_ranks(inner_products(buffer))
            if self._layers:
                parts = functools.reduce(torch.add, (layer.gramian() for layer in self._layers))
                self._gramian += self.group.mean(parts) / self.group.size
            is_lost = lost(self._gramian, functools.partial(self._rows_of, buffer))
            if self.group.any(is_lost) if self._layers else is_lost:  # each rank sees its own rows of layers only
                self._gramian = self._over_ranks(inner_products(self.matrix.double()))
        self._check(self._gramian)
        return self._gramian

    @property
    def known_gramian(self) -> Tensor | None:
        """The Gram matrix if somebody asked for it."""
        return self._gramian

    def dot(self, vector: Tensor) -> Tensor:
        buffer = self._collected()
        vector = vector.to(buffer)
        if self.features:
            return self._over_ranks(buffer @ vector)
        found = buffer @ self._take(vector, self._formed)
        if self._layers:
            of_layers = torch.zeros_like(found)
            for gradients in self._layers:
                weight, bias = gradients.layer.weight, gradients.layer.bias
                on_bias = None if bias is None else self._part(vector, bias)
                of_layers += gradients.dot(self._part(vector, weight), on_bias)
            found += self.group.mean(of_layers)
        return found

    def assemble(self, weights: Tensor | None, vector: Tensor | None) -> Tensor:
        if weights is None:
            assert vector is not None
            return vector
        buffer = self._collected()
        weights = weights.to(buffer)
        if not self._layers:
            total = weights @ buffer
            return total if vector is None else total.add_(vector)
        total = buffer.new_empty(self.size)
        combined, offset = weights @ buffer, 0
        for parameter in self._formed:
            total[self._spans[parameter]] = combined[offset : offset + parameter.numel()]
            offset += parameter.numel()
        parts: dict[nn.Parameter, Tensor] = {}
        for gradients in self._layers:
            parts.update(gradients.of_parameters(*gradients.assemble(weights)))
        for parameter, part in self.group.means(parts).items():
            total[self._spans[parameter]] = part.flatten()
        return total if vector is None else total.add_(vector)

    # --- The update

    def write(self, weights: Tensor | None, vector: Tensor | None, weighs_losses: bool) -> Tensor:
        """Add the update to `.grad` of the shared parameters, and its own gradient to that of each specific one.

        Returns the weights [T] (ones where the update is not a weighted sum).
        """
        ones = torch.ones(self.tasks, dtype=self.losses[0].dtype, device=self.losses[0].device)
        if weights is not None and vector is None and not self.formed:
            self._write_weighted(weights.detach(), ones, weighs_losses)
            return weights.detach()
        if self.features:
            self._collected()  # a direction without a look at the gradients is one on the features all the same
        own = self._passes.own
        if weights is None and self.specific and not self.formed:  # a direction out of nothing but losses
            found = self._passes.weighted(ones, self.specific, self.retain_graph)
            own = {p: [(0, g / self.scale)] for p, g in zip(self.specific, found, strict=True) if g is not None}
        update = self.assemble(weights, vector)
        if update is vector:  # the balancer's own: `.grad` must not share its memory
            update = update.clone()
        if self.features:
            self._write_below(update)
        else:
            self._write_shared(update, keep_sparse=vector is None)
        scale = weights.tolist() if weighs_losses and weights is not None else [1.0] * self.tasks
        sums = [weighted_sum([(scale[task], g) for task, g in own.get(p, ())]) for p in self.specific]
        accumulate(self.group.mean_gradients(self.specific, sums), self.scale)
        return ones if weights is None else weights.detach()

    def _write_shared(self, update: Tensor, keep_sparse: bool) -> None:
        rows = self._passes.sparse if keep_sparse and self.group.size == 1 else {}
        parts = [(p, update[self._spans[p]].view_as(p)) for p in self.shared]
        found = [(p, only_rows(part, rows[p]) if p in rows else part) for p, part in parts]
        accumulate(found, self.scale, exclusive=True)  # parts of one vector that nobody else has

    def _write_below(self, update: Tensor) -> None:
        """One backward pass from the balanced gradient of the features to the shared parameters."""
        factor = self.scale * self.group.size  # the mean over ranks comes below
        parts = torch.split(update, [shape.numel() for shape, _ in self._shapes])
        seeds = [(x.view(shape) * factor).to(dtype) for x, (shape, dtype) in zip(parts, self._shapes, strict=True)]
        found = self._passes.below(self.features, self.shared, seeds)
        accumulate(self.group.mean_gradients(self.shared, found))

    def _write_weighted(self, weights: Tensor, ones: Tensor, weighs_losses: bool) -> None:
        """One backward pass over the weighted sum of the losses.

        Gradients on parameters that a single loss reaches must not be weighted: its weight is divided out again, where
        that is safe; the others take a second pass.
        """
        self.chosen = "one backward pass over the weighted losses"
        if weighs_losses and self._given_specific is None and (self.group.size == 1 or self.sharded):
            seeds = scaled_seeds(weights.to(ones), self.losses, self.scale)
            # All parameters, equally: what anybody's training loop does, with every hook that listens to it.
            with clear_errors():
                torch.autograd.backward(self.losses, seeds, retain_graph=self.retain_graph)
            return
        if self.sharded:
            raise RunError(_SHARDED)
        values = weights.tolist()
        equal = weighs_losses or all(value == 1.0 for value in values)
        divisors: dict[nn.Parameter, float] = {}
        if self.specific and not equal:
            for parameter in self.specific:
                reach = self.graph.reach_of(parameter)
                value = values[reach.bit_length() - 1] if reach.bit_count() == 1 else 0.0
                if 1e-3 < abs(value) < 1e3:
                    divisors[parameter] = value
        again = [] if equal else [p for p in self.specific if p not in divisors]
        first = [*self.shared, *(p for p in self.specific if equal or p in divisors)]
        keep = self.retain_graph or bool(again)
        found = [
            g if g is None or p not in divisors else g / divisors[p]
            for p, g in zip(first, self._passes.weighted(weights.to(ones), first, keep), strict=True)
        ]
        if again:
            first = first + again
            found += self._passes.weighted(ones, again, self.retain_graph)
        accumulate(self.group.mean_gradients(first, found))

    @functools.cached_property
    def sharded(self) -> bool:
        """Whether parameters are in parts on several ranks."""
        return self.group.sharded(self.shared)

    # --- Backward passes

    def _collected(self) -> Tensor:
        """Backward passes, if they were not made yet; the buffer."""
        if self.sharded:
            raise RunError(_SHARDED)
        if self._buffer is None:
            self._buffer = self._collect_features() if self.features else self._collect(self._choose())
            if self.scale != 1.0:
                self._check(self.gramian)  # before a balancer remembers anything of it
        return self._buffer

    def _choose(self) -> list[LayerGradients]:
        """The layers whose gradients are not to be formed."""
        if self.mode in ("matrix", "batched"):
            return []
        found = [LayerGradients(x, self.tasks, self.dtype, self.group) for x in self.graph.linear_layers(self.shared)]
        found = [x for x in found if self.mode == "layers" or x.cost() < x.cost_of_forming()]
        # Ranks exchange rows, for which these must be as many, of the same layers; where they are not (each may have
        # asked another of two alike ones), gradients are formed and meant
        places = {p: place for place, p in enumerate(self.shared)}
        return found if self.group.agrees([n for x in found for n in (places[x.layer.weight], *x.shape)]) else []

    def _collect(self, layers: list[LayerGradients]) -> Tensor:
        inside = {p for x in layers for p in (x.layer.weight, x.layer.bias) if p is not None}
        self._layers, self._formed = layers, [p for p in self.shared if p not in inside]
        size = sum(p.numel() for p in self._formed)
        buffer = torch.zeros(self.tasks, size, dtype=self.dtype, device=self.shared[0].device)
        for layer in layers:
            layer.allocate()
        if self.mode == "batched":
            self._passes.batched(self._formed, buffer, self.memory)
        else:
            self._passes.one_by_one(layers, self._formed, buffer)
        if self.scale != 1.0:
            buffer /= self.scale
            for layer in layers:
                layer.rows /= self.scale
        how = "batched backward passes" if self.mode == "batched" else f"{self.tasks} backward passes"
        self.chosen = f"{how}, {len(layers)} linear layers unformed, {size} of {self.size} values in the buffer"
        return self.group.mean(buffer)

    def _collect_features(self) -> Tensor:
        """Gradients of the losses on the features, and of each loss on its own parameters: the heads only."""
        found, how = self._passes.to_features(self.features)
        blocks = []
        for at_feature in zip(*found, strict=True):
            example = next((g for g in at_feature if g is not None), None)
            if example is None:
                raise RunError("a tensor of `features` is reached by no loss")
            self._shapes.append((example.shape, example.dtype))
            rows = [torch.zeros_like(example) if g is None else g for g in at_feature]
            blocks.append(torch.stack(rows).flatten(1).to(self.dtype))
        buffer = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        if self.scale * self.group.size != 1.0:
            # On N ranks each loss is the mean of N: the gradients on this rank's features are an Nth.
            buffer /= self.scale * self.group.size
        self.chosen = f"{how} to {buffer.shape[1]} shared features, one below them"
        return buffer

    def _form_layers(self, buffer: Tensor) -> Tensor:
        """The whole matrix after all, from what the layers hold."""
        full = buffer.new_empty(self.tasks, self.size)
        offset = 0
        for parameter in self._formed:
            full[:, self._spans[parameter]] = buffer[:, offset : offset + parameter.numel()]
            offset += parameter.numel()
        for task in range(self.tasks):
            parts: dict[nn.Parameter, Tensor] = {}
            for gradients in self._layers:
                parts.update(gradients.of_parameters(*gradients.form(task)))
            for parameter, part in self.group.means(parts).items():
                full[task, self._spans[parameter]] = part.flatten()
        self._buffer, self._layers, self._formed = full, [], self.shared
        return full

    # --- Small things

    def _over_ranks(self, products: Tensor) -> Tensor:
        """Features of N ranks are parts of one batch: their inner products add up."""
        return self.group.mean(products).mul_(self.group.size) if self.features and self.group.size > 1 else products

    def _rows_of(self, buffer: Tensor, task: int) -> list[Tensor]:
        """What a task's gradient is made of."""
        return [buffer[task], *(x.rows[x.starts[task] : x.starts[task + 1]] for x in self._layers)]

    def _check(self, gramian: Tensor) -> None:
        finite = torch.isfinite(gramian.diagonal())
        if not bool(finite.all()):
            bad = int((~finite).nonzero()[0])
            if self.scale != 1.0:
                raise GradientOverflowError(f"the scaled gradient of {called(bad, self._names)} is not finite")
            raise RunError(f"the gradient of {called(bad, self._names)} is not finite; gradients cannot be balanced")

    def _part(self, vector: Tensor, parameter: nn.Parameter) -> Tensor:
        return vector[self._spans[parameter]].view_as(parameter)

    def _take(self, vector: Tensor, parameters: list[nn.Parameter]) -> Tensor:
        if len(parameters) == len(self.shared):
            return vector
        return torch.cat([vector[self._spans[p]] for p in parameters]) if parameters else vector[:0]


_SHARDED = (
    "shared parameters are sharded (DTensor, FSDP2): gradients per task cannot be formed. Keep shared parameters "
    "whole on every rank (means over ranks are taken here), or use a balancer that weighs losses"
)


def gradients_of(
    losses: Sequence[Tensor] | Mapping[str, Tensor],
    shared: Iterable[nn.Parameter] | None,
    specific: Iterable[nn.Parameter] | None = (),
    *,
    features: Tensor | Sequence[Tensor] | bool = (),
    mode: Mode = "auto",
    memory: int | None = None,
    scale: float = 1.0,
    group: Any = False,
    retain_graph: bool = True,
) -> LossGradients:
    """Lazy gradients of `losses` (scalars with a graph) on `shared`, and on the way those on `specific` parameters.

    Without `shared` (None): all parameters that two or more losses reach; without `specific`: all others.
    `features`: take gradients on these tensors, through which all of `shared` is reached, not on the parameters (True:
    where the graphs of the losses meet). `mode`: how (see `Mode`). `memory`: bytes that batched passes may take at a
    time. `scale`: what losses are multiplied by in backward passes (a GradScaler's; all answers are without it).
    `group`: a process group, None for all processes, False for this one alone. RunError if a loss is not finite or
    has no graph; it is called by its name where `losses` is a mapping.
    """
    if mode not in get_args(Mode):
        raise OptionError(f"unknown mode {mode!r} of the gradient engine{nearest(mode, get_args(Mode))}")
    values = list(losses.values()) if isinstance(losses, Mapping) else list(losses)
    names = tuple(map(str, losses.keys())) if isinstance(losses, Mapping) else ()
    check_losses(values, names)
    return LossGradients(
        values,
        None if shared is None else list(shared),
        None if specific is None else list(specific),
        features=features,
        mode=mode,
        memory=memory,
        scale=scale,
        group=Group(group),
        retain_graph=retain_graph,
        names=names,
    )


def write_gradients(
    gradients: LossGradients,
    weights: Tensor | None,
    vector: Tensor | None,
    task_specific: Iterable[nn.Parameter] | None,
    weighs_losses: bool,
) -> Tensor:
    """`gradients.write`, for task-specific parameters that are named only now."""
    if task_specific is not None:
        gradients.specific = [p for p in task_specific if p.requires_grad]
    return gradients.write(weights, vector, weighs_losses)
