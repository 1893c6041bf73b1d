"""Training several tasks at once: sharing architecture, balancer, sampler, optimiser."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, RunError
from crosstask.learning.checkpoint import load_state, save_state
from crosstask.learning.data import batches
from crosstask.learning.gradients import Group, conflict_metrics, gradients_of
from crosstask.learning.gradients.accumulate import accumulate
from crosstask.learning.gradients.checks import check_losses
from crosstask.learning.models import optimizer_for
from crosstask.learning.modules import evaluating
from crosstask.learning.objectives import loss_of, metric_of
from crosstask.learning.training import device_of, evaluate, schedule_for
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.tasks import SPLITS, Task
from crosstask_multitask.sampler import History, Sampler
from crosstask_multitask.sharing import MultiTaskModule, SharingMatrix
from crosstask_multitask.tables import tables_of


class MultiTaskTrainer:
    """Trains a multi-task module; `step` is one update, `fit` runs a budget. Every step is told to the observers.

    Each task draws its own batch of `budget.batch_size / T` samples, so that a joint step costs what a single one does.
    Tasks over one table (`Portfolio.from_table`) share one draw of as many rows as they would draw together: the rows
    pass through what the module shares once, and each task learns from those that it has a label for (one without any
    is not in the step).

    Every `budget.evaluate_every` steps (and on the first) losses, weights, gradient conflicts and, where tasks have
    validation data, their metrics are kept: `steps`, `weights`, `conflicts`, `curves`. An observer that answers
    `training_step` with True ends the training; `stopped` says why it ended before its budget.

    The budget holds as for a single task: `schedule`, `warmup`, `clip` (of the whole gradient), `precision` (float16
    with a GradScaler), `accumulate` (each batch is balanced on its own, and the step takes the mean), `patience` (stop
    after so many evaluations in which the tasks are not better on the whole, and go back to the best; every metric
    counts by its range, or relative to its first value). `features`: balance gradients on the shared representation,
    which is cheaper.

    Frozen weights of the module, as under an adapter, are left alone: what is trained, and balanced, are the others.
    One task by itself may have all that is shared frozen (as after `add_task`): its own weights are trained.

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
        features: bool = False,
    ) -> None:
        if not tasks:
            raise DataError("no tasks to train together")
        # One task by itself, as one that was added to a module whose shared weights are kept, needs no balancing.
        self._by_itself = len(tasks) == 1 and not any(p.requires_grad for p in module.shared_parameters())
        own = module.task_parameters(tasks[0].task_id) if self._by_itself else module.shared_parameters()
        if not any(p.requires_grad for p in own):
            raise DataError("no shared weight of the module can be trained: all are frozen, or there is none")
        if budget.patience is not None and (bare := [t.task_id for t in tasks if not t.has_data("validation")]):
            raise DataError(f"task {bare[0]!r}: patience looks at validation data, and there are none")
        self.module, self.tasks, self.balancer, self.budget, self.context = module, tasks, balancer, budget, context
        self.sampler, self.features = sampler, features
        self.device = device_of(module)
        self._type = None if budget.precision == "float32" else getattr(torch, budget.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=budget.precision == "float16")
        # Without the frozen ones: an optimiser decays and steps by whatever `.grad` it finds, also an old one.
        self._trained = [p for p in module.parameters() if p.requires_grad]
        start: list[nn.Parameter] = [*self._trained, *balancer.parameters()]
        self.optimizer = optimizer_for(budget.optimizer, start, budget.learning_rate, budget.weight_decay)
        self._schedule = schedule_for(self.optimizer, budget, budget.steps)
        self._group = Group()
        self._data = {t.task_id: t.data("train").head(budget.samples) for t in tasks}
        tables = tables_of(self._data)
        # Tasks that share a draw are called by the first of them.
        self._leads = {t: next(iter(table.places)) for table in tables for t in table.places}
        self._tables = {next(iter(table.places)): table for table in tables}
        self._streams = {lead: self._stream(lead) for lead in dict.fromkeys(map(self._lead, self._data))}
        for lead in self._streams:
            if (size := min(self._size(lead), self._count(lead))) % self._group.size:
                raise DataError(f"task {lead!r}: {self._group.size} processes cannot share batches of {size}")
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
        self.stopped = ""
        self._best = -math.inf
        self._waited = 0
        self._best_weights: dict[str, Tensor] | None = None

    # --- Training

    def fit(self) -> None:
        """Updates up to `budget.steps`, going on where this trainer (or the state it loaded) stopped."""
        while self.done < self.budget.steps and not self.stopped:
            number = self.done + 1
            last = number == self.budget.steps  # whose weights may be the best
            self.step(number, record=number % self.budget.evaluate_every == 0 or number == 1 or last)
        if self._best_weights is not None:
            self.module.load_state_dict(self._best_weights)

    def step(self, number: int, *, record: bool = False) -> dict[str, float]:
        """One update; the losses of its tasks. With `record`, weights, conflicts and validation metrics are kept."""
        tasks = self._choose()
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, list[float]] = {}
        weights: dict[str, list[float]] = {}
        conflicts: dict[str, float] = {}
        for batch in range(self.budget.accumulate):
            last_of_them = record and batch == self.budget.accumulate - 1
            found, weighed, conflicts = self._backward(tasks, measure=last_of_them)
            for kept, new in ((losses, found), (weights, weighed)):
                for task_id, value in new.items():
                    kept.setdefault(task_id, []).append(value)
        self._update()
        self.done = number
        metrics: dict[str, Any] = {
            "losses": {task_id: sum(values) / len(values) for task_id, values in losses.items()},
            "weights": {task_id: sum(values) / len(values) for task_id, values in weights.items()},
            "conflicts": conflicts,
        }
        for task_id, value in metrics["losses"].items():
            self.history[task_id].append(value)
        if record:
            metrics["scores"] = self._record(number, metrics)
        answers = self.context.tell("training_step", stage="multitask", step=number, metrics=metrics)
        if True in answers:
            self.stopped = self.stopped or f"an observer asked for it at step {number}"
        values: dict[str, float] = metrics["losses"]
        return values

    def _backward(
        self, tasks: list[Task], *, measure: bool
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Add the balanced gradient of one batch; the losses and weights of its tasks, and the conflicts if known."""
        with self._own_noise():
            losses = self.losses(tasks)
        if self._by_itself:
            return self._own_gradient(losses)
        shared = list(self.module.shared_parameters())
        specific = [p for task_id in losses for p in self.module.task_parameters(task_id)]
        # A balancer that only looks at losses leaves it to us to look at gradients, on recorded steps.
        last = self.balancer.last
        keep = measure and len(losses) > 1 and (last is None or last.gramian is None)
        weights = self.balancer.backward(
            losses, shared, specific, features=self.features, scaler=self.scaler, retain_graph=keep
        )
        last = self.balancer.last
        conflicts = last.conflicts if last is not None else {}
        if keep and not conflicts:
            conflicts = conflict_metrics(gradients_of(losses, shared, group=None, retain_graph=False).gramian)
        found = dict(zip(losses, self._values(losses), strict=True))
        return found, dict(zip(losses, weights.tolist(), strict=True)), conflicts

    def _own_gradient(self, losses: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """The same for a task by itself, with nothing shared to balance."""
        ((name, loss),) = losses.items()
        check_losses([loss], [name])
        own = [p for p in self.module.task_parameters(name) if p.requires_grad]
        found = torch.autograd.grad(self.scaler.scale(loss), own, allow_unused=True)
        accumulate(self._group.mean_gradients(own, found))
        return {name: self._values(losses)[0]}, {name: 1.0}, {}

    def losses(self, tasks: list[Task]) -> dict[str, Tensor]:
        """One loss per task on its next batch; none for a task of a table that has no label in the batch."""
        inputs: dict[str, Tensor | MultiInput] = {}
        targets: dict[str, Tensor] = {}
        rows: dict[str, Tensor] = {}
        shares: dict[str, float] = {}
        for lead, members in itertools.groupby(sorted(tasks, key=self._order), key=lambda t: self._lead(t.task_id)):
            ids = [task.task_id for task in members]
            if lead in self._tables:
                self._draw_rows(lead, ids, inputs, targets, rows, shares)
                continue
            data, index = self._data[lead], self._mine(self._draw(lead))
            inputs[lead] = data.inputs[index].to(self.device)
            targets[lead] = data.targets[index].to(self.device)
        with torch.autocast(self.device.type, self._type, enabled=self._type is not None):
            outputs = self.module.on_rows(inputs, rows) if rows else self.module(inputs)
        found = {}
        for task in tasks:
            if (name := task.task_id) in targets:
                answer = _full(outputs[name])
                loss = loss_of(task)(answer, targets[name]) if len(targets[name]) else answer.sum() * 0.0
                found[name] = loss * shares[name] if shares.get(name, 1.0) != 1.0 else loss
        return found

    def _draw_rows(
        self,
        lead: str,
        ids: list[str],
        inputs: dict[str, Tensor | MultiInput],
        targets: dict[str, Tensor],
        rows: dict[str, Tensor],
        shares: dict[str, float],
    ) -> None:
        """One draw of rows for the tasks of a table: the same inputs for each, and which of them it has a label for."""
        table, counts = self._tables[lead], dict[str, int]()
        while not any(counts.values()):  # some of the tasks may have no label in some draws
            index = self._draw(lead)
            counts = {task_id: int((table.places[task_id][index] >= 0).sum()) for task_id in ids}
        index = self._mine(index)
        places = {task_id: table.places[task_id][index] for task_id in ids if counts[task_id]}
        labelled = torch.stack([place >= 0 for place in places.values()]).any(dim=0)
        labelled = labelled if bool(labelled.any()) else torch.ones_like(labelled)
        batch = table.inputs[index[labelled]].to(self.device)
        for task_id, place in places.items():
            place = place[labelled]
            known = place >= 0
            inputs[task_id], rows[task_id] = batch, known.nonzero()[:, 0].to(self.device)
            targets[task_id] = self._data[task_id].targets[place[known]].to(self.device)
            # Ranks have labels in unequal numbers, and the mean of their means must be that of all labels.
            shares[task_id] = int(known.sum()) * self._group.size / counts[task_id]

    def _lead(self, task_id: str) -> str:
        return self._leads.get(task_id, task_id)

    def _order(self, task: Task) -> int:
        return list(self._data).index(self._lead(task.task_id))

    def _draw(self, lead: str) -> Tensor:
        self._drawn[lead] += 1
        return next(self._streams[lead])

    def _mine(self, index: Tensor) -> Tensor:
        """This rank's part of a batch."""
        return index.chunk(self._group.size)[self._group.rank]

    def _values(self, losses: dict[str, Tensor]) -> list[float]:
        found: list[float] = self._group.mean(torch.stack([v.detach() for v in losses.values()])).tolist()
        return found

    def _choose(self) -> list[Task]:
        if self.sampler is None:
            return self.tasks
        known = {t.task_id: t for t in self.tasks}
        ranges = {t.task_id: metric_of(t).range for t in self.tasks if t.task_id in self.curves}
        history = History(self.history, scores=self.curves, ranges=ranges)
        ids = self.context.call(self.sampler, "sample", tasks=list(known), history=history, rng=self._rng)
        if not ids or any(i not in known for i in ids):
            raise RunError(f"{self.sampler.origin}: sample must return some of {list(known)}, got {ids!r}")
        return [t for t in self.tasks if t.task_id in ids]

    def _update(self) -> None:
        self._adopt()
        trained = [p for p in self.parameters if p.grad is not None]
        if self.budget.accumulate > 1:
            for parameter in trained:
                parameter.grad = None if parameter.grad is None else parameter.grad / self.budget.accumulate
        if self.budget.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(trained, self.budget.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._schedule is not None:
            self._schedule.step()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that the optimiser trains, the balancer's parameters included."""
        found: list[nn.Parameter] = self.optimizer.param_groups[0]["params"]
        return found

    def _adopt(self) -> None:
        """Let the optimiser train what the balancer has come to need: a task that is new to it may bring parameters."""
        # Into the one group that there is: a schedule knows the groups that there were when it was made.
        known = set(self.parameters)
        self.parameters.extend(p for p in self.balancer.parameters() if p not in known)

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
        if self.budget.patience is not None:
            self._judge(sum(map(self._standing, self.tasks)) / len(self.tasks))
        return scores

    def _judge(self, score: float) -> None:
        if score > self._best:
            self._best, self._waited = score, 0
            self._best_weights = copy.deepcopy(self.module.state_dict())
        else:
            self._waited += 1
            if self._waited >= (self.budget.patience or 0):
                self.stopped = f"nothing better since step {self.steps[-1 - self._waited]}"

    def _standing(self, task: Task) -> float:
        """A task's latest score on a scale on which tasks with other metrics can be compared."""
        scores, (low, high) = self.curves[task.task_id], metric_of(task).range
        if math.isfinite(high - low):
            return (scores[-1] - low) / (high - low)
        return (scores[-1] - scores[0]) / (abs(scores[0]) or 1.0)

    def scores(self, split: str = "test", tasks: list[str] | None = None) -> dict[str, float]:
        """Each task's metric on a split, in evaluation mode. RunError names the task whose metric is not finite."""
        chosen = [task for task in self.tasks if tasks is None or task.task_id in tasks]
        return {task.task_id: evaluate(OneTask(self.module, task.task_id), task, split) for task in chosen}

    def learned(self, samples: int = 256) -> list[SharingMatrix]:
        """What the module has learned of sharing, in evaluation mode, on so many samples of each task: of its test
        data, or the latest split that it has.
        """
        inputs = {}
        for task in self.tasks:
            split = next(each for each in reversed(SPLITS) if task.has_data(each))
            inputs[task.task_id] = task.data(split).inputs[:samples].to(self.device)
        with torch.no_grad(), evaluating(self.module):
            return self.module.learned(inputs)

    # --- Going on later

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and what was recorded so far."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._places(),
            "schedule": None if self._schedule is None else self._schedule.state_dict(),
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
        if set(state["history"]) != set(self._data):
            raise DataError(f"the state is of tasks {sorted(state['history'])}, this trainer has {sorted(self._data)}")
        self.module.load_state_dict(state["module"])
        self.balancer.load_state_dict(state["balancer"])
        for parameter, value in zip(self.balancer.parameters(), state["balancer_parameters"], strict=True):
            parameter.data = value.to(parameter.device).clone()  # its size may be known only since the first step
        if self.sampler is not None and state["sampler"] is not None:
            self.sampler.load_state_dict(state["sampler"])
        every = [*self._trained, *self.balancer.parameters()]
        self.parameters[:] = [every[place] for place in state["order"]]
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self._schedule is not None:
            self._schedule.load_state_dict(copy.deepcopy(state["schedule"]))
        self.scaler.load_state_dict(state["scaler"])
        self._rng.set_state(state["sampler_rng"].cpu())
        self._noise = state["noise"].cpu().clone()
        for name in _RECORDED:
            setattr(self, name, copy.deepcopy(state[name]))
        for lead, count in state["drawn"].items():
            self._streams[lead] = self._stream(lead)
            for _ in range(count):  # cheap: a permutation for each epoch
                next(self._streams[lead])
            self._drawn[lead] = count

    def _places(self) -> list[int]:
        """Where each parameter of the optimiser is among those of the module and the balancer, which may have more."""
        every = {p: place for place, p in enumerate([*self._trained, *self.balancer.parameters()])}
        return [every[p] for p in self.parameters]

    def save(self, path: str | Path) -> None:
        """Write the state to one file."""
        save_state(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote."""
        self.load_state_dict(load_state(path))

    def _stream(self, lead: str) -> Iterator[Tensor]:
        return batches(self._count(lead), self._size(lead), self.context.generator("multitask", *self._sharing(lead)))

    def _sharing(self, lead: str) -> list[str]:
        """The tasks of one draw."""
        return list(self._tables[lead].places) if lead in self._tables else [lead]

    def _count(self, lead: str) -> int:
        return len(self._tables[lead]) if lead in self._tables else len(self._data[lead])

    def _size(self, lead: str) -> int:
        """Samples of one draw."""
        return max(1, self.budget.batch_size * len(self._sharing(lead)) // len(self.tasks))

    def _own_noise(self) -> _Noise:
        return _Noise(self)


class OneTask(nn.Module):
    """A joint module as the network of one of its tasks: inputs in, that task's logits out."""

    whole_inputs = True

    def __init__(self, module: MultiTaskModule, task_id: str) -> None:
        super().__init__()
        self.module, self.task_id = module, task_id
        self.training = module.training

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        outputs: dict[str, Tensor] = self.module({self.task_id: inputs})
        return outputs[self.task_id]


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
