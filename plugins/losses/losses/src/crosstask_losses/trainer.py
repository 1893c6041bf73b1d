"""Training a model on several objectives: observations, outputs, losses, a balanced step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput
from crosstask.errors import CrosstaskError, DataError, OptionError, told
from crosstask.learning.checkpoint import load_state, save_state
from crosstask.learning.data import batches
from crosstask.learning.gradients import conflict_metrics, gradients_of, shared_leaves
from crosstask.learning.models import optimizer_for
from crosstask.learning.modules import seeded
from crosstask.learning.training import device_of, schedule_for
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask_losses.aggregator import LossAggregator, TaskLosses
from crosstask_losses.groups import parameter_groups

RECORDED = ("losses", "terms", "weights", "balance", "cosines", "conflicts")


class ObjectiveTrainer:
    """Trains a model on what a `LossAggregator` computes; `step` is one update, `fit` runs a budget.

        trainer = ObjectiveTrainer(model, LossAggregator(), observations, RGB(), Budget(steps=500))
        trainer.fit()
        trainer.curves["terms"]["kl_z"], trainer.curves["cosines"]

    `model(observations [B, T, C, H, W])`, or `model(observations, actions)`, gives outputs by name, each a list of
    tensors over the time steps. `observations` [N, T, C, H, W], or a `MultiInput` of `observations` and `actions`.
    `lr_multipliers`: as for `parameter_groups`.

    The losses apart train the objectives' own parameters, with an optimiser of their own, after the balanced gradient
    of the model has been computed and before either steps. Every step is told to the observers, and one that answers
    True ends the training (`stopped`). Every `budget.evaluate_every` steps, on the first and on the last, `curves` gets
    the losses, the terms, their weights, those of the balancer, and the cosine between the gradients of each two
    objectives on the parameters that they share. What the model draws in a step depends on the seed and the step alone.

    The budget holds as for a single task, but for `patience`: objectives have no metric.
    """

    def __init__(
        self,
        model: nn.Module,
        aggregator: LossAggregator,
        observations: Tensor | MultiInput,
        balancer: Balancer,
        budget: Budget,
        context: Context | None = None,
        *,
        lr_multipliers: Mapping[str, float] | None = None,
        stage: str = "losses",
    ) -> None:
        if budget.patience is not None:
            raise OptionError("patience needs a metric to judge by, and objectives have none: leave it out")
        self.model, self.aggregator, self.balancer, self.budget = model, aggregator, balancer, budget
        self.context = context or LocalContext()
        self.stage = stage
        self.data = observations
        check_inputs(observations)
        count = len(observations) if budget.samples is None else min(budget.samples, len(observations))
        self.device = device_of(model)
        half = budget.precision != "float32"
        self._type = getattr(torch, budget.precision) if half else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=budget.precision == "float16")
        groups = parameter_groups(model, budget.learning_rate, lr_multipliers)
        self._trained: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self._places = {parameter: place for place, parameter in enumerate(self._trained)}
        own = balancer.parameters()
        self.optimizer = optimizer_for(
            budget.optimizer, [*self._trained, *own], budget.learning_rate, budget.weight_decay
        )
        settings = {k: v for k, v in self.optimizer.param_groups[0].items() if k not in ("params", "lr")}
        groups.append({"params": list(own), "lr": budget.learning_rate, "name": "balancer"})
        self.optimizer.param_groups[:] = [{**settings, **group} for group in groups]
        self._schedule = schedule_for(self.optimizer, budget, budget.steps)
        self._apart: torch.optim.Optimizer | None = None
        self._judges: list[str] = []  # the objectives whose parameters it trains, in their order there
        self._count = count
        self._stream, self._drawn = self._batches(), 0
        self.curves: dict[str, dict[str, list[float | None]]] = {name: {} for name in RECORDED}
        self.steps: list[int] = []
        self.done = 0
        self.stopped = ""

    def fit(self) -> None:
        """Updates up to `budget.steps`, going on where this trainer (or the state it loaded) stopped."""
        while self.done < self.budget.steps and not self.stopped:
            number = self.done + 1
            self.step(number, record=number % self.budget.evaluate_every == 0 or number in (1, self.budget.steps))

    def step(self, number: int, *, record: bool = False) -> dict[str, float]:
        """One update; the losses of the objectives. With `record` the curves get a point."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        if self._apart is not None:  # whose losses may be off in this step
            self._apart.zero_grad(set_to_none=True)
        found: dict[str, dict[str, float]] = {}
        for batch in range(self.budget.accumulate):
            self._drawn += 1
            index = next(self._stream)
            last = batch == self.budget.accumulate - 1
            with seeded(self.context.seed_for(self.stage, "noise", number, batch)):
                losses, task_losses = self.losses(self.data[index], step=number - 1)
            found = self._backward(losses, task_losses, first=batch == 0, measure=record and last)
        self._update()
        self.done = number
        found["weights"] = self.aggregator.weights_at(number - 1)
        if record:
            self._record(number, found)
        heard = {**found, "weights": found["balance"], "term_weights": found["weights"]}
        if True in self.context.tell("training_step", stage=self.stage, step=number, metrics=heard):
            self.stopped = self.stopped or f"an observer asked for it at step {number}"
        return found["losses"]

    def losses(self, data: Tensor | MultiInput, *, step: int | None = None) -> tuple[dict[str, Tensor], TaskLosses]:
        """What the aggregator computes for some observations."""
        observations, actions = parts_of(data)
        observations = observations.to(self.device)
        actions = None if actions is None else actions.to(self.device)
        with torch.autocast(self.device.type, self._type, enabled=self._type is not None):
            outputs = outputs_of(self.model, observations, actions)
        return self.aggregator.compute_losses(outputs, observations, actions, step=step)

    def evaluate(self, data: Tensor | MultiInput, batch_size: int = 256) -> dict[str, float]:
        """Every term on these observations in evaluation mode, the mean over batches by their size."""
        check_inputs(data)
        mode, total = self.model.training, dict[str, float]()
        self.model.eval()
        try:
            with torch.no_grad(), seeded(self.context.seed_for(self.stage, "evaluation")):
                for part in data.split(batch_size):
                    losses, _ = self.losses(part, step=self.done)
                    values = torch.stack([value.double() for value in losses.values()]).tolist()
                    for name, value in zip(losses, values, strict=True):
                        total[name] = total.get(name, 0.0) + value * len(part) / len(data)
        finally:
            self.model.train(mode)
        return total

    # --- One step

    def _backward(
        self, losses: dict[str, Tensor], task_losses: TaskLosses, *, first: bool, measure: bool
    ) -> dict[str, dict[str, float]]:
        several, last = len(task_losses) > 1, self.balancer.last
        keep = measure and several and (last is None or last.gramian is None)
        apart = [losses[name] for name in self.aggregator.apart()]
        shared = self._shared(task_losses) if several else list(self._trained)
        weights = self.balancer.backward(task_losses, shared, scaler=self.scaler, retain_graph=keep or bool(apart))
        last = self.balancer.last
        gramian = None if last is None else last.gramian
        if gramian is None and keep:
            gramian = gradients_of(task_losses.named, shared, retain_graph=bool(apart)).gramian
        if apart:
            self._train_apart(torch.stack(apart).sum(), first)
        names, values = list(losses), torch.stack([v.detach().double() for v in losses.values()]).tolist()
        terms = dict(zip(names, values, strict=True))
        totals = {name: self.aggregator.objectives[name].total for name in task_losses.names}
        return {
            "losses": {name: terms[total] for name, total in totals.items()},
            "terms": terms,
            "balance": dict(zip(task_losses.names, weights.tolist(), strict=True)),
            "conflicts": {} if gramian is None else conflict_metrics(gramian),
            "cosines": {} if gramian is None else cosines_of(gramian, task_losses.names),
        }

    def _shared(self, task_losses: TaskLosses) -> list[nn.Parameter]:
        """What several objectives reach, in the model's order: balancers remember gradients, number by number."""
        found, _ = shared_leaves(task_losses.values())
        return sorted(found, key=lambda parameter: self._places.get(parameter, len(self._places)))

    def _train_apart(self, loss: Tensor, first: bool) -> None:
        """The gradient of the losses apart; their optimiser is made once their parameters are known."""
        own = self.aggregator.parameters()
        self._judges += [name for name in self._judging() if name not in self._judges]
        optimizer = self._adopt()
        if first:
            optimizer.zero_grad(set_to_none=True)
        grads = torch.autograd.grad(loss / self.budget.accumulate, own, allow_unused=True)
        for parameter, grad in zip(own, grads, strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def _judging(self) -> list[str]:
        """Objectives that are on and have parameters."""
        return [name for name in self.aggregator.terms() if self.aggregator.objectives[name].parameters()]

    def _adopt(self) -> torch.optim.Optimizer:
        """The optimiser of the losses apart, with the parameters of all objectives that have had some so far."""
        own = [p for name in self._judges for p in self.aggregator.objectives[name].parameters()]
        if self._apart is None:
            self._apart = optimizer_for(self.budget.optimizer, own, self.budget.learning_rate, self.budget.weight_decay)
        trained = self._apart.param_groups[0]["params"]
        known = {id(p) for p in trained}
        trained.extend(p for p in own if id(p) not in known)
        return self._apart

    def _update(self) -> None:
        own = self.optimizer.param_groups[-1]["params"]
        known = {id(p) for p in own}
        own.extend(p for p in self.balancer.parameters() if id(p) not in known)
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.budget.accumulate > 1:
            for parameter in trained:
                assert parameter.grad is not None
                parameter.grad = parameter.grad / self.budget.accumulate
        if self.budget.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(trained, self.budget.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._apart is not None:
            self._apart.step()
        if self._schedule is not None:
            self._schedule.step()

    def _record(self, number: int, found: dict[str, dict[str, float]]) -> None:
        self.steps.append(number)
        for kind in RECORDED:
            curves = self.curves[kind]
            for name in {**curves, **found[kind]}:
                kept = curves.setdefault(name, [])
                kept += [None] * (len(self.steps) - 1 - len(kept))  # it was not there before
                kept.append(found[kind].get(name))

    # --- Going on later

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and what was recorded so far."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "apart": None if self._apart is None else self._apart.state_dict(),
            "schedule": None if self._schedule is None else self._schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "balancer": self.balancer.state_dict(),
            "balancer_parameters": [p.detach().clone() for p in self.balancer.parameters()],
            "aggregator": self.aggregator.state_dict(),
            "off": self.aggregator.off,
            "judges": list(self._judges),
            "drawn": self._drawn,
            **{name: copy.deepcopy(getattr(self, name)) for name in ("curves", "steps", "done", "stopped")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a trainer made with the same arguments."""
        self.model.load_state_dict(state["model"])
        self.aggregator.load_state_dict(copy.deepcopy(state["aggregator"]))
        self._switch(state["off"])
        self.balancer.load_state_dict(state["balancer"])
        own = self.balancer.parameters()
        for parameter, value in zip(own, state["balancer_parameters"], strict=True):
            parameter.data = value.to(parameter.device).clone()
        self.optimizer.param_groups[-1]["params"] = list(own)
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._apart, self._judges = None, list(state["judges"])
        if state["apart"] is not None:
            # Objectives make their own networks when they first see frames: also one that is off now.
            self._switch([*{*state["off"], *self.aggregator.objectives} - {*self._judges}])
            with seeded(0), torch.no_grad():
                self.losses(self.data[:1], step=state["done"])
            self._switch(state["off"])
            self._adopt().load_state_dict(copy.deepcopy(state["apart"]))
        if self._schedule is not None:
            self._schedule.load_state_dict(copy.deepcopy(state["schedule"]))
        self.scaler.load_state_dict(state["scaler"])
        for name in ("curves", "steps", "done", "stopped"):
            setattr(self, name, copy.deepcopy(state[name]))
        self._stream = self._batches()
        for _ in range(state["drawn"]):  # cheap: a permutation for each epoch
            next(self._stream)
        self._drawn = state["drawn"]

    def _switch(self, off: list[str]) -> None:
        """Leave these objectives and terms off, and no others."""
        for name in {*self.aggregator.off, *off}:
            self.aggregator.switch(name, name not in off)

    def _batches(self) -> Iterator[Tensor]:
        return batches(self._count, self.budget.batch_size, self.context.generator(self.stage, "batches"))

    def save(self, path: str | Path) -> None:
        """Write the state to one file."""
        save_state(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote."""
        self.load_state_dict(load_state(path))


def cosines_of(gramian: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """The cosine between the gradients of each two objectives, from their Gram matrix; 0 where one is zero."""
    square = gramian.detach().to("cpu", torch.float64)
    lengths = square.diagonal().clamp_min(0).sqrt()
    unit = (square / (lengths[:, None] * lengths).clamp_min(torch.finfo(square.dtype).tiny)).tolist()
    pairs = itertools.combinations(range(len(names)), 2)
    return {f"{names[i]}, {names[j]}": unit[i][j] for i, j in pairs}


def parts_of(data: Tensor | MultiInput) -> tuple[Tensor, Tensor | None]:
    """Observations, and actions or None."""
    if isinstance(data, MultiInput):
        return data.parts["observations"], data.parts.get("actions")
    return data, None


def check_inputs(data: Any) -> None:
    """DataError unless these are observations [N, T, C, H, W], alone or with actions [N, T, A]."""
    wanted = "observations must be a tensor [N, T, C, H, W] (sequences of frames)"
    if isinstance(data, MultiInput):
        if "observations" not in data.parts or not set(data.parts) <= {"observations", "actions"}:
            raise DataError(f"several inputs must be called observations and actions, got {', '.join(data.parts)}")
        data = data.parts["observations"]
    if not isinstance(data, Tensor) or data.ndim != 5:
        got = list(data.shape) if isinstance(data, Tensor) else f"a {type(data).__name__}"
        raise DataError(f"{wanted}, got {got}")


def outputs_of(model: nn.Module, observations: Tensor, actions: Tensor | None) -> Mapping[str, Any]:
    """What the model gives. DataError if it cannot take the observations, or gives no mapping."""
    name = type(model).__name__
    try:
        outputs = model(observations) if actions is None else model(observations, actions)
    except (CrosstaskError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code
        shapes = f"observations {list(observations.shape)}"
        shapes += "" if actions is None else f" and actions {list(actions.shape)}"
        raise DataError(f"{name} cannot take {shapes}: {told(error)}") from error
    if not isinstance(outputs, Mapping):
        raise DataError(
            f"{name} must give a mapping of names to lists of tensors over the time steps, got a "
            f"{type(outputs).__name__}"
        )
    return outputs
