"""Reptile."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.errors import DataError
from crosstask.learning.batched import PATHS, Batched
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task, pad
from crosstask.options import component, option, state
from crosstask.points.meta_learner import MetaLearner
from crosstask_meta.adaptation import adapting, gradients, report_divergence, with_parameters
from crosstask_meta.heads import check_head, outputs_of
from crosstask_meta.passes import answers, in_order, passes

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
    that it reports are then of samples that the inner loop has seen. Tasks need no queries. `inner_optimizer` "adam" is
    the paper's, with beta1 = 0. Adapting to a new task takes `num_inner_steps` steps on all of its support set.
    """

    capabilities = frozenset({"regression", "ragged", "support_only"})
    lr_inner: float = option(0.01, gt=0, help="step size of the inner steps")
    lr_meta: float = option(0.1, gt=0, le=1, help="part of the way to the mean of the adapted weights")
    num_inner_steps: int = option(5, ge=1, help="inner steps")
    inner_optimizer: str = option("sgd", choices=("sgd", "adam"), help="adam: without momentum, started anew each time")
    inner_batch: int | None = option(None, ge=1, help="samples of an inner step of meta_step (default: all)")
    use_queries: bool = option(True, help="inner steps of meta_step learn from the queries too")
    path: str = option("auto", choices=PATHS, help="how tasks are batched: see crosstask.learning.batched")
    tasks_at_once: int | None = option(None, ge=1, help="tasks in one batched pass (default: by the module and images)")
    adapt_dropout: bool = option(False, help="dropout stays on while a model adapts to a new task")
    _done: int = state(0)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(self._moving(model).values()), lr=self.lr_meta)

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        self.check_episodes(episodes)
        episodes = _judged(episodes)
        check_head(model, episodes)
        moving = self._moving(model)
        net, generator = Batched(model, self.path), self.context.generator("reptile", self._done)
        sums = {name: torch.zeros_like(p) for name, p in moving.items()}
        rows, losses, supports, accuracies = [], [], [], []
        for own, part in passes(net, moving, episodes, self.tasks_at_once, first_order=True):
            made = self._train(net, moving, *self._samples(part), self.num_inner_steps, generator)
            outputs, last = _answered(net, made, part)
            sums = {name: total + made.parameters[name].sum(0) for name, total in sums.items()}
            rows.append(own)
            losses.append(last)
            supports.append(made.losses)
            if episodes.ways is not None:
                accuracies.append(episode_accuracy(outputs, part.query_targets, part.query_mask))
        after = in_order(rows, losses)
        report_divergence(self.origin, "lr_inner", self.lr_inner, in_order(rows, supports, dim=1), after)
        for name, parameter in moving.items():
            parameter.grad = parameter.detach() - sums[name] / len(episodes)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._done += 1
        metrics = {"loss": float(after.mean())}
        if accuracies:
            metrics["accuracy"] = float(torch.cat(accuracies).mean())
        return metrics

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        own, _ = of_task(support, outputs_of(model, support.inputs))
        inputs, targets = own.inputs[None], own.targets[None]
        one = Episodes(inputs, targets, inputs, targets)
        made, _ = self._adapted(model, Batched(model, "loop"), one, steps)
        return with_parameters(model, {name: value[0] for name, value in made.parameters.items()})

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        self.check_episodes(episodes)
        check_head(model, episodes)
        net, rows, parts = Batched(model, self.path), [], []
        for own, part in passes(net, self._moving(model), episodes, self.tasks_at_once, first_order=True):
            rows.append(own)
            parts.append((self._adapted(model, net, part, steps)[1], part))
        return answers(rows, parts, episodes)

    def _adapted(self, model: nn.Module, net: Batched, part: Episodes, steps: int | None) -> tuple[Trained, Tensor]:
        count = self.num_inner_steps if steps is None else steps
        given = (part.support_inputs, part.support_targets, part.support_mask)
        with adapting(model, self.adapt_dropout):
            made = self._train(net, self._moving(model), *given, count, None)
            outputs, last = _answered(net, made, part)
        own = part.query_inputs is part.support_inputs  # no queries: `last` is the support loss after the last step
        support = torch.cat([made.losses, last[None]]) if own else made.losses
        report_divergence(self.origin, "lr_inner", self.lr_inner, support, last)
        return made, outputs

    def _samples(self, part: Episodes) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the inner steps of a meta-step learn from: inputs, targets and, of padded episodes, a mask."""
        if not self.use_queries:
            return part.support_inputs, part.support_targets, part.support_mask
        inputs = torch.cat([part.support_inputs, part.query_inputs], dim=1)
        targets = torch.cat([part.support_targets, part.query_targets], dim=1)
        if not part.padded:
            return inputs, targets, None
        masks = ((part.support_mask, part.support_targets), (part.query_mask, part.query_targets))
        real = [
            torch.ones_like(t.flatten(2)[..., 0] if t.ndim > 2 else t, dtype=torch.bool) if m is None else m
            for m, t in masks
        ]
        return inputs, targets, torch.cat(real, dim=1)

    def _moving(self, model: nn.Module) -> dict[str, nn.Parameter]:
        found = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not found:
            raise DataError(f"{self.origin}: the model has no trainable parameter")
        return found

    def _train(
        self,
        net: Batched,
        parameters: dict[str, nn.Parameter],
        inputs: Tensor,
        targets: Tensor,
        mask: Tensor | None,
        steps: int,
        generator: torch.Generator | None,
    ) -> Trained:
        """Train on B tasks at once, inputs [B, N, …]; with a generator in minibatches, drawn anew every step."""
        tasks, count = targets.shape[:2]
        own = {name: p.detach().expand(tasks, *p.shape) for name, p in parameters.items()}
        squares = {name: torch.zeros_like(value) for name, value in own.items()} if self._adam else {}
        losses = []
        for step in range(1, steps + 1):
            x, y, real = inputs, targets, mask
            if generator is not None and self.inner_batch is not None and self.inner_batch < count:
                keys = torch.rand(tasks, count, generator=generator)
                if mask is not None:  # padding comes last
                    keys = keys.masked_fill(~mask.cpu(), -1.0)
                rows = keys.topk(self.inner_batch).indices.to(targets.device)
                each = torch.arange(tasks, device=targets.device)[:, None]
                x, y, real = inputs[each, rows], targets[each, rows], None if mask is None else mask[each, rows]
            own = {name: value.detach().requires_grad_() for name, value in own.items()}
            with torch.enable_grad():
                loss = episode_losses(net(own, x), y, real)
                found = gradients(loss, list(own.values()), self.origin)
            losses.append(loss.detach())
            with torch.no_grad():
                for (name, value), gradient in zip(list(own.items()), found, strict=True):
                    if gradient is None:  # a parameter that the module does not use stays
                        continue
                    if self._adam:
                        squares[name].mul_(SQUARES).addcmul_(gradient, gradient, value=1 - SQUARES)
                        gradient = gradient / ((squares[name] / (1 - SQUARES**step)).sqrt() + 1e-8)
                    own[name] = value - self.lr_inner * gradient
        along = torch.stack(losses) if losses else torch.zeros(0, tasks, device=targets.device)
        return Trained({name: value.detach() for name, value in own.items()}, along)

    @property
    def _adam(self) -> bool:
        return self.inner_optimizer == "adam"


def _judged(episodes: Episodes) -> Episodes:
    """Episodes whose tasks without queries are judged by their support set (its mean loss is the same where an inner
    step sees it twice).
    """
    if bool((episodes.query_counts > 0).all()):
        return episodes
    columns: tuple[list[Tensor], list[Tensor]] = ([], [])
    for sx, sy, qx, qy in episodes:
        for column, own in zip(columns, (qx, qy) if len(qx) else (sx, sy), strict=True):
            column.append(own)
    (inputs, mask), (targets, _) = map(pad, columns)
    return attrs.evolve(episodes, query_inputs=inputs, query_targets=targets, query_mask=mask)


@torch.no_grad()
def _answered(net: Batched, made: Trained, part: Episodes) -> tuple[Tensor, Tensor]:
    """(outputs [B, Q, …], loss [B]) of the queries."""
    outputs = net(made.parameters, part.query_inputs)
    return outputs, episode_losses(outputs, part.query_targets, part.query_mask)
