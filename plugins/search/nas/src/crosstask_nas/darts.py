"""The `darts` search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, RunError
from crosstask.learning.data import batches
from crosstask.learning.modules import seeded
from crosstask.learning.objectives import Objective, loss_of
from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_nas.supernet import Supernet
from crosstask_search.contract import Search
from crosstask_search.models import ModelSpace
from crosstask_search.records import Trial
from crosstask_search.space import Point, SearchSpace


@component
class Darts(Search):
    """Differentiable architecture search (Liu et al. 2019): trains one supernet of all networks on the task, its
    weights on the training data and its choices on the validation data, in turn, and proposes the network of the
    strongest choices. Later proposals are drawn from the choices' probabilities, none twice.

    `order` 1 takes the weights for fixed when the choices step (the paper's ξ = 0); `order` 2 differentiates through
    one training step of the weights (eq. 7), exactly, by automatic differentiation, instead of eq. 8's finite
    difference. What a space has besides networks (a learning rate) is drawn at random.

    It needs a task: `run_model_search` gives it one, or call `search(task, models)`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"networks", "no_repeats"})

    order: int = option(1, ge=1, le=2, help="1: first order, 2: through one step of the weights")
    steps: int = option(150, ge=1, help="steps of the weights, each with one of the choices")
    warmup: float = option(0.2, ge=0, lt=1, help="share of the steps before the choices begin to learn")
    batch_size: int = option(64, ge=1, help="samples per step")
    learning_rate: float = option(0.05, gt=0, help="of the weights (SGD with momentum 0.9, falling to 0)")
    choice_rate: float = option(0.05, gt=0, help="of the choices (Adam)")
    choice_decay: float = option(1e-3, ge=0, help="weight decay of the choices")
    learned: dict[str, list[float]] | None = state(None)
    _task: Task | None = attrs.field(init=False, default=None, repr=False)
    _models: ModelSpace | None = attrs.field(init=False, default=None, repr=False)

    def search_begins(self, space: SearchSpace, task: Task | None, models: ModelSpace | None) -> None:
        self._task, self._models, self.learned = task, models, None

    @property
    def blind(self) -> float:
        return math.inf

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        space.require_points()
        if self.learned is None:
            if self._task is None or self._models is None:
                raise DataError(
                    "darts trains on the task itself and was given none: use it in run_model_search, or call its "
                    "search(task, models)"
                )
            self.learned = self._train(space, self._task, self._models)
        tried = {space.key(trial.point) for trial in trials}
        rng = np.random.default_rng(self.context.seed_for("darts", len(trials)))
        best = space.complete(self._picked(space, None), rng)
        if space.allows(best) and space.key(best) not in tried:
            return best
        for _ in range(200):
            point = space.complete(self._picked(space, rng), rng)
            if space.allows(point) and space.key(point) not in tried:
                return point
        return space.fresh(rng, tried)

    def search(self, task: Task, models: ModelSpace) -> Point:
        """The architecture that a supernet of `models` prefers after training on the task."""
        space = models.space(task.descriptor)
        self.search_begins(space, task, models)
        return self.propose(space, [])

    def _picked(self, space: SearchSpace, rng: np.random.Generator | None) -> Point:
        """The strongest value of every choice, or one drawn by their probabilities."""
        made = {}
        for name, logits in (self.learned or {}).items():
            scores = np.asarray(logits) + (0.0 if rng is None else rng.gumbel(size=len(logits)))
            made[name] = space.parameters[name].choices[int(np.argmax(scores))]
        return made

    def _train(self, space: SearchSpace, task: Task, models: ModelSpace) -> dict[str, list[float]]:
        train, held = task.data("train"), task.data("validation")
        if task.descriptor.output_dim is None:
            raise DataError(f"task {task.task_id!r}: a supernet needs output_dim in the descriptor")
        device = torch.device(self.context.device)
        with seeded(self.context.seed_for("supernet")):
            net = Supernet(models, space, tuple(train.inputs.shape[1:]), task.descriptor.output_dim)
        net = net.to(device=device, dtype=train.inputs.dtype)
        loss = loss_of(task)
        lessons = self._batches(train, "lessons", device), self._batches(held, "held", device)
        of_weights = torch.optim.SGD(net.weights(), lr=self.learning_rate, momentum=0.9)
        of_choices = torch.optim.Adam(
            net.logits(), lr=self.choice_rate, betas=(0.5, 0.999), weight_decay=self.choice_decay
        )
        net.train()
        for step in range(self.steps):
            rate = self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            of_weights.param_groups[0]["lr"] = rate
            lesson, exam = next(lessons[0]), next(lessons[1])
            if step >= self.warmup * self.steps:
                gradients = choice_gradients(net, loss, lesson, exam, rate if self.order == 2 else 0.0)
                for logits, gradient in zip(net.logits(), gradients, strict=True):
                    logits.grad = gradient
                of_choices.step()
            value = loss(net(lesson[0]), lesson[1])
            if not math.isfinite(reached := float(value.detach())):
                raise RunError(f"task {task.task_id!r}: the supernet's loss is {reached} at step {step}")
            of_weights.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(net.weights(), 5.0)
            of_weights.step()
        return {name: [float(v) for v in net.choices[name].detach().cpu()] for name in net.names}

    def _batches(self, data: TensorData, name: str, device: torch.device) -> Any:
        """Pairs of inputs and targets without end."""
        generator = self.context.generator("darts", name)
        for index in batches(len(data), self.batch_size, generator):
            yield data.inputs[index].to(device), data.targets[index].to(device)


def choice_gradients(
    net: Supernet, loss: Objective, lesson: tuple[Tensor, Tensor], exam: tuple[Tensor, Tensor], rate: float
) -> list[Tensor]:
    """Gradients of the exam's loss by the choices, after one step of size `rate` of the weights on the lesson.

    With rate 0 the weights are as they are (first order). Liu et al. 2019, eq. 6 and 7.
    """
    if rate == 0:
        return _gradients(loss(net(exam[0]), exam[1]), net)
    names = [name for name, _ in net.named_parameters() if not name.startswith("choices.")]
    slopes = torch.autograd.grad(loss(net(lesson[0]), lesson[1]), net.weights(), create_graph=True, allow_unused=True)
    moved = {
        name: weight if slope is None else weight - rate * slope
        for name, weight, slope in zip(names, net.weights(), slopes, strict=True)
    }
    return _gradients(loss(functional_call(net, moved, (exam[0],)), exam[1]), net)


def _gradients(value: Tensor, net: Supernet) -> list[Tensor]:
    """By the choices; zero for one that has no alternative and so no part in the outputs."""
    return list(torch.autograd.grad(value, net.logits(), allow_unused=True, materialize_grads=True))
