"""Adaptation by gradient steps on the support set, for many tasks in one autograd graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.errors import DataError
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task
from crosstask.options import component, option
from crosstask.points.meta_learner import MetaLearner
from crosstask_maml.compiled import Compiled
from crosstask_meta.adaptation import report_divergence, with_parameters
from crosstask_meta.batched import PATHS, Batched
from crosstask_meta.heads import check_outputs, outputs_of

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

    `episodes`: support inputs [B, S, …], support targets, query inputs, query targets. `learn=False` keeps no graph.
    """
    support_inputs, support_targets, query_inputs, query_targets = episodes
    tasks = len(support_inputs)
    own = {name: p.unsqueeze(0) if tasks == 1 else p.expand(tasks, *p.shape) for name, p in parameters.items()}
    second = learn and not order.first
    with torch.set_grad_enabled(learn):
        start, (support_inputs, query_inputs) = net.head_start(own, support_inputs, query_inputs)

    def query() -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(learn):
            outputs = net(own, query_inputs, start)
            check_outputs(outputs.shape[-1], query_targets, order.ways)
            return outputs, episode_losses(outputs, query_targets)

    losses: list[Tensor] = []
    objective = torch.zeros(())
    for step in range(order.steps):
        if not learn:
            own = {name: value.detach().requires_grad_() for name, value in own.items()}
        with torch.enable_grad():
            outputs = net(own, support_inputs, start)
            check_outputs(outputs.shape[-1], support_targets, order.ways)
            loss = episode_losses(outputs, support_targets)
            found = torch.autograd.grad(loss.sum(), list(own.values()), create_graph=second)
        losses.append(loss.detach())
        with torch.set_grad_enabled(learn):
            own = {
                name: value - (rates if isinstance(rates, float) else rates[name]) * gradient
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
    found = torch.autograd.grad(made.objective.sum(), list(trained), allow_unused=True)
    gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(trained, found, strict=True)]
    return (made.query, made.outputs, made.support, *gradients)


@component
class InnerLoop(MetaLearner):
    """Base of the learners that adapt by gradient steps; each says which parameters move, how far, to which order."""

    capabilities = frozenset({"regression"})
    lr_inner: float = option(0.01, gt=0, help="step size of the adaptation")
    lr_meta: float = option(0.001, gt=0, help="step size of the meta-steps (Adam)")
    num_inner_steps: int = option(5, ge=1, help="gradient steps of an adaptation")
    path: str = option("auto", choices=PATHS, help="how tasks are batched: see crosstask_meta.batched")
    tasks_at_once: int | None = option(None, ge=1, help="tasks in one batched pass (default: by the module and images)")
    compile: bool = option(False, help="torch.compile each step: the first call takes a minute, later ones are faster")
    _compiled: Compiled | None = attrs.field(default=None, init=False, repr=False)

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
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=self.lr_meta)

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        module, order = self._module(model), attrs.evolve(self._order(), ways=episodes.ways)
        net, moving = Batched(module, self.path), self._moving(module)
        if not moving:
            raise DataError(f"{self.origin}: the model has no trainable parameter to adapt")
        trained = [p for p in model.parameters() if p.requires_grad]
        sums: list[Tensor] = []
        parts = []
        for part in self._passes(net, moving, episodes, order):
            losses, outputs, support, *gradients = self._step()(net, trained, moving, self._rates(model), order, part)
            parts.append((losses, outputs, support))
            sums = [s + g for s, g in zip(sums, gradients, strict=True)] if sums else gradients
        losses, outputs, support = (
            torch.cat(found, dim=dim) for found, dim in zip(zip(*parts, strict=True), (0, 0, 1), strict=True)
        )
        report_divergence(self.origin, "lr_inner", self.lr_inner, support, losses)
        for parameter, gradient in zip(trained, sums, strict=True):
            parameter.grad = gradient / len(episodes)
        optimizer.step()
        self._ended()
        metrics = {"loss": float(losses.mean())}
        if len(support):
            metrics["support_loss"] = float(support[0].mean())
        if episodes.ways is not None:
            metrics["accuracy"] = float(episode_accuracy(outputs, episodes.query_targets).mean())
        return metrics

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        module = self._module(model)
        own, ways = of_task(support, outputs_of(module, support.inputs))
        made = self._adapted(model, [own.inputs[None], own.targets[None]] * 2, ways, steps, "loop")
        return with_parameters(module, {name: value[0] for name, value in made.parameters.items()})

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        module = self._module(model)
        net = Batched(module, self.path)
        parts = self._passes(net, self._moving(module), episodes, Order(self.num_inner_steps, first=True))
        return torch.cat([self._adapted(model, part, episodes.ways, steps, self.path).outputs for part in parts])

    def _adapted(
        self, model: nn.Module, episodes: Sequence[Tensor], ways: int | None, steps: int | None, path: str
    ) -> Adapted:
        module = self._module(model)
        order = Order(self.num_inner_steps if steps is None else steps, first=True, ways=ways)
        mode = module.training
        module.eval()  # no dropout while it adapts: the same support set gives the same model
        try:
            made = adapt(Batched(module, path), self._moving(module), self._rates(model), order, episodes, learn=False)
        finally:
            module.train(mode)
        own = episodes[0] is episodes[2]  # no queries: what was measured last is the support loss after the last step
        support = torch.cat([made.support, made.query[None]]) if own else made.support
        report_divergence(self.origin, "lr_inner", self.lr_inner, support, made.query)
        return made

    def _passes(
        self, net: Batched, moving: Mapping[str, Tensor], episodes: Episodes, order: Order
    ) -> Iterator[tuple[Tensor, ...]]:
        """The episodes, as many at once as pay."""
        size = self.tasks_at_once or net.tasks_at_once(moving, episodes.support_inputs, order.first)
        for part in episodes.split(size):
            yield part.support_inputs, part.support_targets, part.query_inputs, part.query_targets

    def _step(self) -> Callable[..., tuple[Tensor, ...]]:
        if not self.compile:
            return meta_gradients
        if self._compiled is None:
            self._compiled = Compiled(meta_gradients)
        return self._compiled
