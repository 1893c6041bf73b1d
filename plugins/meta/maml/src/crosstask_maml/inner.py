"""Adaptation by gradient steps on the support set, for many tasks in one autograd graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, OptionError
from crosstask.learning.batched import PATHS, Batched
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.balancer import Balancer
from crosstask.points.meta_learner import MetaLearner
from crosstask_maml.compiled import Compiled
from crosstask_meta.adaptation import adapting, gradients, report_divergence, with_parameters
from crosstask_meta.heads import check_outputs, outputs_of
from crosstask_meta.passes import answers, in_order, passes

Rates = float | Mapping[str, Tensor]
"""One step size of the inner loop, or one tensor of them per parameter."""


@attrs.frozen
class Order:
    """How an inner loop goes: how many steps, through them or past them, and what the losses of each step weigh."""

    steps: int
    first: bool
    weights: tuple[float, ...] = ()
    """Weights of the query losses after steps 1, 2, …; empty: only the last counts."""

    ways: int | None = None
    """How many outputs the model must have; None: as many as a target has values."""

    who: str = "the inner loop"
    """What messages call the learner."""


@attrs.frozen
class Adapted:
    """What an inner loop came to: parameters [B, …] by name, losses as they were along it."""

    parameters: dict[str, Tensor]
    objective: Tensor  # [B]
    query: Tensor  # [B]: the loss after the last step
    outputs: Tensor  # [B, Q, …]
    support: Tensor  # [steps, B]


def adapt(
    net: Batched,
    parameters: Mapping[str, Tensor],
    rates: Rates,
    order: Order,
    episodes: Sequence[Tensor],
    *,
    learn: bool = True,
) -> Adapted:
    """Gradient descent on the support loss of each of B tasks, from the same `parameters`, all in one graph.

    `episodes`: support inputs [B, S, …], support targets, query inputs, query targets, and of padded ones two masks.
    `learn=False` keeps no graph. A parameter that the module does not use stays as it is.
    """
    support_inputs, support_targets, query_inputs, query_targets, *masks = episodes
    support_mask, query_mask = masks or (None, None)
    tasks = len(support_inputs)
    own = {name: p.unsqueeze(0) if tasks == 1 else p.expand(tasks, *p.shape) for name, p in parameters.items()}
    second = learn and not order.first
    with torch.set_grad_enabled(learn):
        start, (support_inputs, query_inputs) = net.head_start(own, support_inputs, query_inputs)

    def query() -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(learn):
            outputs = net(own, query_inputs, start)
            check_outputs(outputs.shape[-1], query_targets, order.ways)
            return outputs, episode_losses(outputs, query_targets, query_mask)

    losses: list[Tensor] = []
    objective = torch.zeros(())
    for step in range(order.steps):
        if not learn:
            own = {name: value.detach().requires_grad_() for name, value in own.items()}
        with torch.enable_grad():
            outputs = net(own, support_inputs, start)
            check_outputs(outputs.shape[-1], support_targets, order.ways)
            loss = episode_losses(outputs, support_targets, support_mask)
            found = gradients(loss, list(own.values()), order.who, create_graph=second)
        losses.append(loss.detach())
        with torch.set_grad_enabled(learn):
            own = {
                name: value
                if gradient is None
                else value - (rates if isinstance(rates, float) else rates[name]) * gradient
                for (name, value), gradient in zip(own.items(), found, strict=True)
            }
        if order.weights and order.weights[step]:
            outputs, last = query()
            objective = objective + order.weights[step] * last
    if not order.weights or not order.weights[-1] or not order.steps:
        outputs, last = query()
    along = torch.stack(losses) if losses else last.new_zeros(0, tasks)
    return Adapted(own, objective if order.weights else last, last.detach(), outputs.detach(), along)


def meta_gradients(
    net: Batched,
    trained: Sequence[Tensor],
    parameters: Mapping[str, Tensor],
    rates: Rates,
    order: Order,
    episodes: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """(query losses [B], outputs [B, Q, …], support losses [steps, B], then the gradient of the summed objective with
    respect to each of `trained`).
    """
    made = adapt(net, parameters, rates, order, episodes)
    found = gradients(made.objective, trained, order.who)
    filled = [torch.zeros_like(t) if g is None else g for t, g in zip(trained, found, strict=True)]
    return (made.query, made.outputs, made.support, *filled)


@component
class InnerLoop(MetaLearner):
    """Base of the learners that adapt by gradient steps; each says which parameters move, how far, to which order."""

    capabilities = frozenset({"regression", "ragged"})
    lr_inner: float = option(0.01, gt=0, help="step size of the adaptation")
    lr_meta: float = option(0.001, gt=0, help="step size of the meta-steps (Adam)")
    num_inner_steps: int = option(5, ge=1, help="gradient steps of an adaptation")
    path: str = option("auto", choices=PATHS, help="how tasks are batched: see crosstask.learning.batched")
    tasks_at_once: int | None = option(None, ge=1, help="tasks in one batched pass (default: by the module and images)")
    adapt_dropout: bool = option(False, help="dropout stays on while a model adapts to a new task")
    balancer: Part | None = part("balancer", None, help="weighs the tasks of a meta-step by their query losses")
    compile: bool = option(False, help="torch.compile each step: the first call takes a minute, later ones are faster")
    _compiled: Compiled | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.compile and self.balancer is not None:
            raise OptionError(f"{self.origin}: a compiled step cannot be balanced: leave compile or balancer out")

    @abstractmethod
    def _order(self) -> Order:
        """The order of the next step."""

    def _module(self, model: nn.Module) -> nn.Module:
        """The module whose parameters adapt."""
        return model

    def _rates(self, model: nn.Module) -> Rates:
        return self.lr_inner

    def _moving(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that adapt, by name."""
        return {name: p for name, p in module.named_parameters() if p.requires_grad}

    def _ended(self) -> None:
        """Called after each meta-step."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise DataError(f"{self.origin}: the model has no trainable parameter to adapt")
        return torch.optim.Adam([*trained, *(p for made in self._balancers() for p in made.parameters())], self.lr_meta)

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        self.check_episodes(episodes)
        module, order = self._module(model), attrs.evolve(self._order(), ways=episodes.ways, who=self.origin)
        net, moving, rates = Batched(module, self.path), self._moving(module), self._rates(model)
        if not moving:
            raise DataError(f"{self.origin}: the model has no trainable parameter to adapt")
        trained, balancers = [p for p in model.parameters() if p.requires_grad], self._balancers()
        rows, losses, supports, accuracies, objectives = [], [], [], [], []
        sums: list[Tensor] = []
        for own, some in passes(net, moving, episodes, self.tasks_at_once, order.first):
            if balancers:
                made = adapt(net, moving, rates, order, _tensors(some))
                objectives.append(made.objective)
                last, outputs, along = made.query, made.outputs, made.support
            else:
                last, outputs, along, *found = self._step()(net, trained, moving, rates, order, _tensors(some))
                sums = [s + g for s, g in zip(sums, found, strict=True)] if sums else found
            rows.append(own)
            losses.append(last)
            supports.append(along)
            if episodes.ways is not None:
                accuracies.append(episode_accuracy(outputs, some.query_targets, some.query_mask))
        after, support = in_order(rows, losses), in_order(rows, supports, dim=1)
        report_divergence(self.origin, "lr_inner", self.lr_inner, support, after)
        metrics = {"loss": float(after.mean())}
        if len(support):
            metrics["support_loss"] = float(support[0].mean())
        if accuracies:
            metrics["accuracy"] = float(torch.cat(accuracies).mean())
        for balancer in balancers:
            metrics |= _balanced(balancer, in_order(rows, objectives), trained, episodes.names)
        for parameter, gradient in zip(trained, sums, strict=not balancers):
            parameter.grad = gradient / len(episodes)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._ended()
        return metrics

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        module = self._module(model)
        own, ways = of_task(support, outputs_of(module, support.inputs))
        made = self._adapted(model, [own.inputs[None], own.targets[None]] * 2, ways, steps, "loop")
        return with_parameters(module, {name: value[0] for name, value in made.parameters.items()})

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        self.check_episodes(episodes)
        module = self._module(model)
        net = Batched(module, self.path)
        rows, parts = [], []
        for own, some in passes(net, self._moving(module), episodes, self.tasks_at_once, first_order=True):
            made = self._adapted(model, _tensors(some), episodes.ways, steps, self.path)
            rows.append(own)
            parts.append((made.outputs, some))
        return answers(rows, parts, episodes)

    def _adapted(
        self, model: nn.Module, episodes: Sequence[Tensor], ways: int | None, steps: int | None, path: str
    ) -> Adapted:
        module = self._module(model)
        order = Order(self.num_inner_steps if steps is None else steps, first=True, ways=ways, who=self.origin)
        with adapting(module, self.adapt_dropout):
            made = adapt(Batched(module, path), self._moving(module), self._rates(model), order, episodes, learn=False)
        own = episodes[0] is episodes[2]  # no queries: what was measured last is the support loss after the last step
        support = torch.cat([made.support, made.query[None]]) if own else made.support
        report_divergence(self.origin, "lr_inner", self.lr_inner, support, made.query)
        return made

    def _balancers(self) -> list[Balancer]:
        """The one that is to weigh the tasks, if any is."""
        return self.made_of("balancer")

    def _step(self) -> Callable[..., tuple[Tensor, ...]]:
        if not self.compile:
            return meta_gradients
        if self._compiled is None:
            self._compiled = Compiled(meta_gradients)
        return self._compiled


def _tensors(episodes: Episodes) -> list[Tensor]:
    made = [episodes.support_inputs, episodes.support_targets, episodes.query_inputs, episodes.query_targets]
    if episodes.padded:
        pairs = ((episodes.support_mask, episodes.support_targets), (episodes.query_mask, episodes.query_targets))
        for mask, targets in pairs:
            made.append(targets.new_ones(targets.shape[:2], dtype=torch.bool) if mask is None else mask)
    return made


def _balanced(
    balancer: Balancer, objectives: Tensor, trained: Sequence[Tensor], names: Sequence[str]
) -> dict[str, float]:
    """Write the balanced gradient of the tasks' objectives [B] to `.grad`: the weight of each task, by its name."""
    own = [cast(nn.Parameter, p) for p in trained]
    for parameter in (*own, *balancer.parameters()):
        parameter.grad = None
    called = names or [str(number) for number in range(len(objectives))]
    weights = balancer.backward(dict(zip(called, objectives, strict=True)), own, [])
    return {f"weight_{name}": weight for name, weight in zip(called, weights.tolist(), strict=True)}
