"""Training several tasks at once: sharing architecture, balancer, sampler, optimiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crosstask.context import Context
from crosstask.errors import DataError
from crosstask.learning.data import batches
from crosstask.learning.gradients import conflict_metrics, gradients_of
from crosstask.learning.models import optimizer_for
from crosstask.learning.objectives import loss_of, metric_of
from crosstask.points.balancer import Balancer
from crosstask.points.sampler import Sampler
from crosstask.points.sharing import MultiTaskModule
from crosstask.records import Budget
from crosstask.tasks import Task


class MultiTaskTrainer:
    """Trains a multi-task module; `step` is one update, `fit` runs a budget. Every step is told to the observers.

    Each task draws its own batch of `budget.batch_size / T` samples, so that a joint step costs what a single one does.
    """

    def __init__(
        self,
        module: MultiTaskModule,
        tasks: list[Task],
        balancer: Balancer,
        budget: Budget,
        context: Context,
        sampler: Sampler | None = None,
    ) -> None:
        if not tasks:
            raise DataError("no tasks to train together")
        self.module, self.tasks, self.balancer, self.budget, self.context = (
            module,
            tasks,
            balancer,
            budget,
            context,
        )
        self.sampler = sampler
        parameters: list[nn.Parameter] = [*module.parameters(), *balancer.parameters()]
        self.optimizer = optimizer_for(budget.optimizer, parameters, budget.learning_rate, budget.weight_decay)
        size = max(1, budget.batch_size // len(tasks))
        self._streams = {
            t.task_id: batches(
                len(t.data("train").head(budget.samples)), size, context.generator("multitask", t.task_id)
            )
            for t in tasks
        }
        self._rng = context.generator("sampler")
        self.history: dict[str, list[float]] = {t.task_id: [] for t in tasks}
        self.weights: dict[str, list[float]] = {t.task_id: [] for t in tasks}
        self.conflicts: dict[str, list[float]] = {}
        self.steps: list[int] = []

    def losses(self, tasks: list[Task]) -> dict[str, Tensor]:
        """One loss per task on its next batch."""
        inputs, targets = {}, {}
        for task in tasks:
            data, index = task.data("train"), next(self._streams[task.task_id])
            inputs[task.task_id], targets[task.task_id] = data.inputs[index], data.targets[index]
        outputs = self.module(inputs)
        return {t.task_id: loss_of(t)(outputs[t.task_id], targets[t.task_id]) for t in tasks}

    def step(self, number: int, *, record: bool = False) -> dict[str, float]:
        """One update. With `record`, gradient conflicts are measured and kept too."""
        ids = [t.task_id for t in self.tasks]
        if self.sampler is not None:
            ids = self.context.call(self.sampler, "sample", tasks=ids, history=self.history, rng=self._rng)
        tasks = [t for t in self.tasks if t.task_id in ids]
        self.module.train()
        losses = self.losses(tasks)
        shared = list(self.module.shared_parameters())
        specific = [p for t in tasks for p in self.module.task_parameters(t.task_id)]
        self.optimizer.zero_grad(set_to_none=True)
        conflicts = {}
        if record and len(tasks) > 1:
            conflicts = conflict_metrics(gradients_of(list(losses.values()), shared).gramian)
        weights = self.balancer.backward(losses, shared, specific)
        self.optimizer.step()
        values = {t: float(v.detach()) for t, v in losses.items()}
        for task_id, value in values.items():
            self.history[task_id].append(value)
        if record:
            self.steps.append(number)
            for task_id, weight in zip(losses, weights.tolist(), strict=True):
                self.weights[task_id].append(weight)
            for name, value in conflicts.items():
                self.conflicts.setdefault(name, []).append(value)
        self.context.tell(
            "training_step",
            stage="multitask",
            step=number,
            metrics={"losses": values, "conflicts": conflicts},
        )
        return values

    def fit(self) -> None:
        """`budget.steps` updates, recording every `budget.evaluate_every` of them."""
        for number in range(1, self.budget.steps + 1):
            self.step(number, record=number % self.budget.evaluate_every == 0 or number == 1)

    @torch.no_grad()
    def scores(self, split: str = "test") -> dict[str, float]:
        """Each task's metric."""
        self.module.eval()
        found = {}
        for task in self.tasks:
            data = task.data(split)
            output = self.module({task.task_id: data.inputs})[task.task_id]
            found[task.task_id] = float(metric_of(task)(output, data.targets))
        return found
