"""Balancers made of balancers, and the one that is most often their first stage."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from crosstask.errors import PluginError
from crosstask.learning.gradients import TaskGradients
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.balancer import Balancer, Direction, parts
from crosstask_composition.checks import fitting, need_parts


class WeightedGradients(TaskGradients):
    """The gradients `weights[t] * g_t` of other task gradients, as lazy as those are."""

    def __init__(self, gradients: TaskGradients, weights: Tensor) -> None:
        self._gradients, self._weights, self.tasks = gradients, weights, gradients.tasks
        self.name(gradients.names)

    @property
    def matrix(self) -> Tensor:
        matrix = self._gradients.matrix
        return self._weights.to(matrix)[:, None] * matrix

    @property
    def gramian(self) -> Tensor:
        gramian = self._gradients.gramian
        weights = self._weights.to(gramian)
        return weights[:, None] * gramian * weights

    def dot(self, vector: Tensor) -> Tensor:
        products = self._gradients.dot(vector)
        return self._weights.to(products) * products

    def assemble(self, weights: Tensor | None, vector: Tensor | None) -> Tensor:
        return self._gradients.assemble(None if weights is None else weights * self._weights.to(weights), vector)


@component
class Sequence(Balancer):
    """Balancers in order: each sees every task's gradient multiplied by the weights that those before it gave the task.

    The update is that of the last one. `sequence(normalise, pcgrad)` projects gradients of equal norm, for example.
    Every stage but the last must answer with weights (PluginError names one that answers with a direction). The losses
    are the same for every stage, and what belongs to one task only keeps the plain gradient of its loss.
    """

    parts: tuple[Part, ...] = part("balancer", required=True, help="the balancers, in order")

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        *stages, last = self.made_of("parts")
        total: Tensor | None = None
        for stage in stages:
            seen = gradients if total is None else WeightedGradients(gradients, total)
            weights, vector = parts(stage.balance(losses, seen), gradients.tasks, stage.origin)
            if weights is None or vector is not None:
                raise PluginError(f"{stage.origin} answers with a direction, so it can only be the last of a sequence")
            total = weights if total is None else total * weights
        if total is None:
            answer: Tensor | Direction = last.balance(losses, gradients)
            return answer
        seen = WeightedGradients(gradients, total)
        weights, vector = parts(last.balance(losses, seen), gradients.tasks, last.origin)
        if weights is not None:
            weights = weights * total.to(weights)
        return whole(weights, vector)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for stage in self.made_of("parts") for parameter in stage.parameters()]


@component
class Blend(Balancer):
    """The weighted mean of the updates of several balancers, each of which sees the same gradients."""

    parts: tuple[Part, ...] = part("balancer", required=True, help="the balancers")
    weights: tuple[float, ...] = option((), ge=0, help="one per part (all equal if empty)")

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)
        fitting(self, "weights", self.weights, self.parts)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        shares = self.weights or (1.0,) * len(self.parts)
        weights, vector = None, None
        for share, balancer in zip(shares, self.made_of("parts"), strict=True):
            own_weights, own_vector = parts(balancer.balance(losses, gradients), gradients.tasks, balancer.origin)
            weights = added(weights, own_weights, share / sum(shares))
            vector = added(vector, own_vector, share / sum(shares))
        return whole(weights, vector)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for balancer in self.made_of("parts") for parameter in balancer.parameters()]


def whole(weights: Tensor | None, vector: Tensor | None) -> Tensor | Direction:
    """Plain weights where there is nothing else, as wrappers expect of a balancer that weighs."""
    return weights if weights is not None and vector is None else Direction(vector=vector, weights=weights)


def added(total: Tensor | None, term: Tensor | None, factor: float) -> Tensor | None:
    """`total + factor * term`, where None is zero."""
    if term is None:
        return total
    return factor * term if total is None else total + factor * term


@component
class Normalise(Balancer):
    """Weights that give every task's gradient the same norm: 1, or the mean of the norms. Zero gradients stay zero."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant"})

    to: Literal["mean", "one"] = option("mean", help="the norm to scale to: the mean over the tasks, or one")

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        norms = gradients.gramian.diagonal().clamp(min=0).sqrt()
        goal = norms.mean() if self.to == "mean" else torch.ones_like(norms)
        return torch.where(norms > 0, goal / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0)
