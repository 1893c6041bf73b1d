"""Reptile."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.errors import DataError
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task
from crosstask.options import component, option, state
from crosstask.points.meta_learner import MetaLearner
from crosstask_meta.adaptation import report_divergence, with_parameters
from crosstask_meta.batched import PATHS, Batched
from crosstask_meta.heads import check_head, outputs_of

SQUARES = 0.999
"""How slowly Adam forgets old squared gradients."""


@attrs.frozen
class Trained:
    """What training on B tasks came to: parameters [B, …] by name and the losses before each step [steps, B]."""

    parameters: dict[str, Tensor]
    losses: Tensor


@component
class Reptile(MetaLearner):
    """Trains on each task of the batch as on any data set, then moves the weights a part of the way to the mean of what
    came out.

    Nichol, Achiam, Schulman (2018), arXiv:1803.02999, algorithm 2: θ ← θ + `lr_meta` (mean φ - θ), which `optimizer`
    (plain SGD) does exactly; another optimiser is given θ - mean φ as the gradient. As in the paper the inner steps
    of `meta_step` see all samples of a task, with `use_queries`, in minibatches of `inner_batch`; the loss and accuracy
    that it reports are then of samples that the inner loop has seen. `inner_optimizer` "adam" is the paper's, with
    beta1 = 0. Adapting to a new task takes `num_inner_steps` steps on all of its support set.
    """

    capabilities = frozenset({"regression"})
    lr_inner: float = option(0.01, gt=0, help="step size of the inner steps")
    lr_meta: float = option(0.1, gt=0, le=1, help="part of the way to the mean of the adapted weights")
    num_inner_steps: int = option(5, ge=1, help="inner steps")
    inner_optimizer: str = option("sgd", choices=("sgd", "adam"), help="adam: without momentum, started anew each time")
    inner_batch: int | None = option(None, ge=1, help="samples of an inner step of meta_step (default: all)")
    use_queries: bool = option(True, help="inner steps of meta_step learn from the queries too")
    path: str = option("auto", choices=PATHS, help="how tasks are batched: see crosstask_meta.batched")
    tasks_at_once: int | None = option(None, ge=1, help="tasks in one batched pass (default: by the module and images)")
    _done: int = state(0)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=self.lr_meta)

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        check_head(model, episodes)
        moving = _moving(model)
        if not moving:
            raise DataError(f"{self.origin}: the model has no trainable parameter")
        net, generator = Batched(model, self.path), self.context.generator("reptile", self._done)
        sums = {name: torch.zeros_like(p) for name, p in moving.items()}
        losses, scores = [], []
        size = self.tasks_at_once or net.tasks_at_once(moving, episodes.support_inputs, first_order=True)
        for part in episodes.split(size):
            data = (part.support_inputs, part.support_targets)
            if self.use_queries:
                queries = (part.query_inputs, part.query_targets)
                data = (torch.cat([data[0], queries[0]], dim=1), torch.cat([data[1], queries[1]], dim=1))
            made = self._train(net, moving, *data, self.num_inner_steps, generator)
            outputs, last = _judge(net, made, part)
            report_divergence(self.origin, "lr_inner", self.lr_inner, made.losses, last)
            sums = {name: total + made.parameters[name].sum(0) for name, total in sums.items()}
            losses.append(last)
            scores.append(outputs)
        for name, parameter in moving.items():
            parameter.grad = parameter.detach() - sums[name] / len(episodes)
        optimizer.step()
        self._done += 1
        metrics = {"loss": float(torch.cat(losses).mean())}
        if episodes.ways is not None:
            metrics["accuracy"] = float(episode_accuracy(torch.cat(scores), episodes.query_targets).mean())
        return metrics

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        own, _ = of_task(support, outputs_of(model, support.inputs))
        inputs, targets = own.inputs[None], own.targets[None]
        one = Episodes(inputs, targets, inputs, targets)
        made, _ = self._adapted(model, Batched(model, "loop"), one, steps)
        return with_parameters(model, {name: value[0] for name, value in made.parameters.items()})

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        check_head(model, episodes)
        net = Batched(model, self.path)
        size = self.tasks_at_once or net.tasks_at_once(_moving(model), episodes.support_inputs, first_order=True)
        return torch.cat([self._adapted(model, net, part, steps)[1] for part in episodes.split(size)])

    def _adapted(self, model: nn.Module, net: Batched, part: Episodes, steps: int | None) -> tuple[Trained, Tensor]:
        count = self.num_inner_steps if steps is None else steps
        mode = model.training
        model.eval()  # no dropout while it adapts: the same support set gives the same model
        try:
            made = self._train(net, _moving(model), part.support_inputs, part.support_targets, count, None)
            outputs, last = _judge(net, made, part)
        finally:
            model.train(mode)
        own = part.query_inputs is part.support_inputs  # no queries: `last` is the support loss after the last step
        support = torch.cat([made.losses, last[None]]) if own else made.losses
        report_divergence(self.origin, "lr_inner", self.lr_inner, support, last)
        return made, outputs

    def _train(
        self,
        net: Batched,
        parameters: dict[str, nn.Parameter],
        inputs: Tensor,
        targets: Tensor,
        steps: int,
        generator: torch.Generator | None,
    ) -> Trained:
        """Train on B tasks at once, inputs [B, N, …]; with a generator in minibatches, drawn anew every step."""
        tasks, count = targets.shape[:2]
        own = {name: p.detach().expand(tasks, *p.shape) for name, p in parameters.items()}
        squares = {name: torch.zeros_like(value) for name, value in own.items()} if self._adam else {}
        losses = []
        for step in range(1, steps + 1):
            x, y = inputs, targets
            if generator is not None and self.inner_batch is not None and self.inner_batch < count:
                rows = torch.rand(tasks, count, generator=generator).topk(self.inner_batch).indices.to(targets.device)
                each = torch.arange(tasks, device=targets.device)[:, None]
                x, y = inputs[each, rows], targets[each, rows]
            own = {name: value.detach().requires_grad_() for name, value in own.items()}
            with torch.enable_grad():
                loss = episode_losses(net(own, x), y)
                found = torch.autograd.grad(loss.sum(), list(own.values()))
            losses.append(loss.detach())
            with torch.no_grad():
                for (name, value), gradient in zip(list(own.items()), found, strict=True):
                    if self._adam:
                        squares[name].mul_(SQUARES).addcmul_(gradient, gradient, value=1 - SQUARES)
                        gradient = gradient / ((squares[name] / (1 - SQUARES**step)).sqrt() + 1e-8)
                    own[name] = value - self.lr_inner * gradient
        along = torch.stack(losses) if losses else inputs.new_zeros(0, tasks)
        return Trained({name: value.detach() for name, value in own.items()}, along)

    @property
    def _adam(self) -> bool:
        return self.inner_optimizer == "adam"


def _moving(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _judge(net: Batched, made: Trained, part: Episodes) -> tuple[Tensor, Tensor]:
    """(outputs [B, Q, …], loss [B]) of the queries."""
    outputs = net(made.parameters, part.query_inputs)
    return outputs, episode_losses(outputs, part.query_targets)
