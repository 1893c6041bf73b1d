"""Training several tasks at once: sharing architecture, balancer, sampler, optimiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.errors import DataError, OptionError, RunError, nearest
from crosstask.learning.checkpoint import load_state, save_state
from crosstask.learning.data import batches
from crosstask.learning.gradients import Group, conflict_metrics, gradients_of
from crosstask.learning.models import optimizer_for
from crosstask.learning.objectives import loss_of, metric_of
from crosstask.learning.training import device_of
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_multitask.sampler import Sampler
from crosstask_multitask.sharing import MultiTaskModule

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MultiTaskTrainer:
    """Trains a multi-task module; `step` is one update, `fit` runs a budget. Every step is told to the observers.

    Each task draws its own batch of `budget.batch_size / T` samples, so that a joint step costs what a single one does.
    Every `budget.evaluate_every` steps (and on the first) losses, weights, gradient conflicts and, where tasks have
    validation data, their metrics are kept: `steps`, `weights`, `conflicts`, `curves`.

    `precision`: float32, bfloat16 or float16 (the last with a GradScaler). `features`: balance gradients on the shared
    representation, which is cheaper. `clip`: largest norm of the whole gradient. `patience`: stop after so many
    evaluations without a better mean validation metric, and go back to the best.

    Frozen weights of the module, as under an adapter, are left alone: what is trained, and balanced, are the others.

    Under torch.distributed each rank (with the same module, tasks and seed) takes its part of every batch, and all make
    the same updates as one process would (layers that look at the batch, and dropout, see the rank's part).

    `state_dict` holds everything: a trainer made alike that loads it goes on exactly as this one would.
    """

    def __init__(
        self,
        module: MultiTaskModule,
        tasks: list[Task],
        balancer: Balancer,
        budget: Budget,
        context: Context,
        sampler: Sampler | None = None,
        *,
        precision: str = "float32",
        features: bool = False,
        clip: float | None = None,
        patience: int | None = None,
    ) -> None:
        if not tasks:
            raise DataError("no tasks to train together")
        if not any(p.requires_grad for p in module.shared_parameters()):
            raise DataError("no shared weight of the module can be trained: all are frozen, or there is none")
        if precision not in PRECISIONS:
            raise OptionError(f"unknown precision {precision!r}{nearest(precision, PRECISIONS)}")
        if patience is not None and not all(t.has_data("validation") for t in tasks):
            raise DataError("stopping early needs validation data for every task")
        self.module, self.tasks, self.balancer, self.budget, self.context = module, tasks, balancer, budget, context
        self.sampler, self.features, self.clip, self.patience = sampler, features, clip, patience
        self.device = device_of(module)
        self._type = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")
        # Without the frozen ones: an optimiser decays and steps by whatever `.grad` it finds, also an old one.
        trained = [p for p in module.parameters() if p.requires_grad]
        self.parameters: list[nn.Parameter] = [*trained, *balancer.parameters()]
        self.optimizer = optimizer_for(budget.optimizer, self.parameters, budget.learning_rate, budget.weight_decay)
        self._group = Group()
        self._data = {t.task_id: t.data("train").head(budget.samples) for t in tasks}
        for task_id, data in self._data.items():
            if (size := min(self._batch_size(), len(data))) % self._group.size:
                raise DataError(f"task {task_id!r}: {self._group.size} processes cannot share batches of {size}")
        self._streams = {t.task_id: self._stream(t.task_id) for t in tasks}
        self._drawn = dict.fromkeys(self._streams, 0)
        self._rng = context.generator("sampler")
        # What layers draw (dropout) comes from here, not from whatever the process drew before.
        self._noise = torch.Generator(self.device).manual_seed(context.seed_for("multitask", "noise")).get_state()
        self.history: dict[str, list[float]] = {t.task_id: [] for t in tasks}
        self.weights: dict[str, list[float]] = {t.task_id: [] for t in tasks}
        self.curves: dict[str, list[float]] = {t.task_id: [] for t in tasks if t.has_data("validation")}
        self.conflicts: dict[str, list[float]] = {}
        self.steps: list[int] = []
        self.done = 0
        self.stopped = False
        self._best = -math.inf
        self._waited = 0
        self._best_weights: dict[str, Tensor] | None = None

    # --- Training

    def fit(self) -> None:
        """Updates up to `budget.steps`, going on where this trainer (or the state it loaded) stopped."""
        while self.done < self.budget.steps and not self.stopped:
            number = self.done + 1
            self.step(number, record=number % self.budget.evaluate_every == 0 or number == 1)
        if self._best_weights is not None:
            self.module.load_state_dict(self._best_weights)

    def step(self, number: int, *, record: bool = False) -> dict[str, float]:
        """One update; the losses of its tasks. With `record`, weights, conflicts and validation metrics are kept."""
        tasks = self._choose()
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self._own_noise():
            losses = self.losses(tasks)
        shared = list(self.module.shared_parameters())
        specific = [p for t in tasks for p in self.module.task_parameters(t.task_id)]
        # A balancer that only looks at losses leaves it to us to look at gradients, on recorded steps.
        last = self.balancer.last
        keep = record and len(tasks) > 1 and (last is None or last.gramian is None)
        weights = self.balancer.backward(
            losses, shared, specific, features=self.features, scaler=self.scaler, retain_graph=keep
        )
        last = self.balancer.last
        conflicts = last.conflicts if last is not None else {}
        if keep and not conflicts:
            conflicts = conflict_metrics(gradients_of(losses, shared, group=None, retain_graph=False).gramian)
        self._update()
        self.done = number
        metrics: dict[str, Any] = {
            "losses": dict(zip(losses, self._values(losses), strict=True)),
            "weights": dict(zip(losses, weights.tolist(), strict=True)),
            "conflicts": conflicts,
        }
        for task_id, value in metrics["losses"].items():
            self.history[task_id].append(value)
        if record:
            metrics["scores"] = self._record(number, metrics)
        self.context.tell("training_step", stage="multitask", step=number, metrics=metrics)
        values: dict[str, float] = metrics["losses"]
        return values

    def losses(self, tasks: list[Task]) -> dict[str, Tensor]:
        """One loss per task on its next batch."""
        inputs, targets = {}, {}
        for task in tasks:
            data, index = self._data[task.task_id], next(self._streams[task.task_id])
            self._drawn[task.task_id] += 1
            index = index.chunk(self._group.size)[self._group.rank]
            inputs[task.task_id] = data.inputs[index].to(self.device)
            targets[task.task_id] = data.targets[index].to(self.device)
        with torch.autocast(self.device.type, self._type, enabled=self._type is not None):
            outputs = self.module(inputs)
        return {t.task_id: loss_of(t)(_full(outputs[t.task_id]), targets[t.task_id]) for t in tasks}

    def _values(self, losses: dict[str, Tensor]) -> list[float]:
        found: list[float] = self._group.mean(torch.stack([v.detach() for v in losses.values()])).tolist()
        return found

    def _choose(self) -> list[Task]:
        if self.sampler is None:
            return self.tasks
        known = {t.task_id: t for t in self.tasks}
        ids = self.context.call(self.sampler, "sample", tasks=list(known), history=self.history, rng=self._rng)
        if not ids or any(i not in known for i in ids):
            raise RunError(f"{self.sampler.origin}: sample must return some of {list(known)}, got {ids!r}")
        return [t for t in self.tasks if t.task_id in ids]

    def _update(self) -> None:
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    # --- Measuring

    def _record(self, number: int, metrics: dict[str, Any]) -> dict[str, float]:
        self.steps.append(number)
        for task_id, kept in self.weights.items():
            kept.append(metrics["weights"].get(task_id, 0.0))  # a task that was not chosen has no weight
        for name, value in (metrics["conflicts"] or conflict_metrics(torch.ones(1, 1))).items():
            self.conflicts.setdefault(name, []).append(value)
        scores = self.scores("validation", list(self.curves)) if self.curves else {}
        for task_id, value in scores.items():
            self.curves[task_id].append(value)
        if self.patience is not None:
            self._judge(sum(scores.values()) / len(scores))
        return scores

    def _judge(self, score: float) -> None:
        if score > self._best:
            self._best, self._waited = score, 0
            self._best_weights = copy.deepcopy(self.module.state_dict())
        else:
            self._waited += 1
            self.stopped = self._waited >= (self.patience or 0)

    @torch.no_grad()
    def scores(self, split: str = "test", tasks: list[str] | None = None, batch_size: int = 4096) -> dict[str, float]:
        """Each task's metric on a split, in evaluation mode."""
        mode = self.module.training
        self.module.eval()
        found = {}
        for task in self.tasks:
            name = task.task_id
            if tasks is None or name in tasks:
                data = task.data(split)
                pieces = torch.split(data.inputs, batch_size)
                parts = [self.module({name: x.to(self.device)})[name].cpu() for x in pieces]
                found[name] = float(metric_of(task)(torch.cat(parts), data.targets))
        self.module.train(mode)
        return found

    # --- Going on later

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and what was recorded so far."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "balancer": self.balancer.state_dict(),
            "balancer_parameters": [p.detach().clone() for p in self.balancer.parameters()],
            "sampler": None if self.sampler is None else self.sampler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "drawn": dict(self._drawn),
            "sampler_rng": self._rng.get_state(),
            "noise": self._noise.clone(),
            **{name: copy.deepcopy(getattr(self, name)) for name in _RECORDED},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a trainer made with the same arguments. DataError if its tasks are others."""
        if set(state["drawn"]) != set(self._streams):
            raise DataError(f"the state is of tasks {sorted(state['drawn'])}, this trainer has {sorted(self._streams)}")
        self.module.load_state_dict(state["module"])
        self.balancer.load_state_dict(state["balancer"])
        for parameter, value in zip(self.balancer.parameters(), state["balancer_parameters"], strict=True):
            parameter.data = value.to(parameter.device).clone()  # its size may be known only since the first step
        if self.sampler is not None and state["sampler"] is not None:
            self.sampler.load_state_dict(state["sampler"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.scaler.load_state_dict(state["scaler"])
        self._rng.set_state(state["sampler_rng"].cpu())
        self._noise = state["noise"].cpu().clone()
        for name in _RECORDED:
            setattr(self, name, copy.deepcopy(state[name]))
        for task_id, count in state["drawn"].items():
            self._streams[task_id] = self._stream(task_id)
            for _ in range(count):  # cheap: a permutation for each epoch
                next(self._streams[task_id])
            self._drawn[task_id] = count

    def save(self, path: str | Path) -> None:
        """Write the state to one file."""
        save_state(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote."""
        self.load_state_dict(load_state(path))

    def _stream(self, task_id: str) -> Iterator[Tensor]:
        return batches(len(self._data[task_id]), self._batch_size(), self.context.generator("multitask", task_id))

    def _batch_size(self) -> int:
        return max(1, self.budget.batch_size // len(self.tasks))

    def _own_noise(self) -> _Noise:
        return _Noise(self)


class _Noise:
    """Inside, torch's global random numbers are the trainer's; outside, they go on as if nothing had happened."""

    def __init__(self, trainer: MultiTaskTrainer) -> None:
        self.trainer = trainer
        self.source: Any = torch.cuda if trainer.device.type == "cuda" else torch

    def __enter__(self) -> None:
        self.before = self.source.get_rng_state()
        self.source.set_rng_state(self.trainer._noise)

    def __exit__(self, *_: object) -> None:
        self.trainer._noise = self.source.get_rng_state()
        self.source.set_rng_state(self.before)


_RECORDED = (
    "history",
    "weights",
    "curves",
    "conflicts",
    "steps",
    "done",
    "stopped",
    "_best",
    "_waited",
    "_best_weights",
)


def _full(outputs: Tensor) -> Tensor:
    """Losses are taken in full precision: half of it does not hold a logarithm of a probability."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
