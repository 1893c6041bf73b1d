"""The `strategy` distiller."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Job
from crosstask.descriptors import MultiInput
from crosstask.errors import CrosstaskError, DataError, RunError
from crosstask.learning.metrics import relative_gain
from crosstask.learning.modules import copy_of
from crosstask.learning.objectives import metric_of
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model, without_model
from crosstask.options import component, option
from crosstask.points.distillation import Distilled, Distiller
from crosstask.records import Budget, MetaKnowledge
from crosstask.tasks import Task
from crosstask_distillation.given import check_rate, conditions, with_models

SCHEDULES: dict[str, tuple[float, ...]] = {
    "constant": (1.0,),
    "decay": (1.0, 0.5, 0.25, 0.1),
    "warm_up": (0.2, 1.0, 1.0, 0.5),
}
"""Factors of the learning rate in equal parts of a training."""


@component
class Strategy(Distiller):
    """The learning rate and schedule that served the known tasks, as a prior for the next one.

    Every task's architecture is trained anew for the budget with each learning rate and schedule; these histories (the
    validation score at the end, as the share of the task's best; of an error, the smallest as a share of it) are the
    data. The prior over the logarithm of the
    learning rate is normal, with the mean and spread over tasks of each task's expected value under its own scores; the
    schedule is the one with the highest mean. The generalization score: what the choice made from the other tasks gains
    on each task over the budget's own learning rate, held constant.

    Tensors: `log_rate` [mean, standard deviation], `schedule` [factors], `scores` [tasks, schedules, rates]. Applied, a
    copy of the model carries `training_strategy`, a `TrainingStrategy` between the budget's (rate 0) and the
    knowledge's (rate 1), for `train_with`; its weights are the model's.
    """

    rates: tuple[float, ...] = option((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), gt=0, help="learning rates that are tried")
    budget: Budget = option(factory=lambda: Budget(steps=60, samples=100), help="one training; its rate is the default")
    sharpness: float = option(20.0, gt=0, help="how much more the better scores count in a task's expected rate")

    def distill(self, tasks: list[Task], samples: Tensor | MultiInput | None) -> Distilled:
        known = [t for t in with_models(tasks) if t.has_data("train") and t.has_data("validation")]
        if not known:
            raise DataError("distillation of a strategy needs tasks with training and validation data")
        known, scores, plain, left_out = self._histories(known)  # [T, S, R], [T]
        share = torch.stack([_shares(task, own) for task, own in zip(known, scores, strict=True)])
        place, mean, spread = self._prior(share)
        factors = torch.tensor(SCHEDULES[list(SCHEDULES)[place]], dtype=torch.float64)
        gains = []
        for number in range(len(known)) if len(known) > 1 else ():
            others = [n for n in range(len(known)) if n != number]
            schedule, rate, _ = self._prior(share[others])
            nearest = min(range(len(self.rates)), key=lambda r: abs(math.log(self.rates[r]) - rate))
            best = metric_of(known[number]).best
            gains.append(relative_gain(float(scores[number, schedule, nearest]), float(plain[number]), best))
        knowledge = MetaKnowledge(
            kind="strategy",
            source_tasks=tuple(t.task_id for t in known),
            domains=tuple(sorted({t.descriptor.domain for t in known})),
            embedding=(mean, spread, *factors.tolist()),
            generalization_score=sum(gains) / len(gains) if gains else None,
            applicability_conditions=conditions(known, left_out)
            | {"schedule": list(SCHEDULES)[place], "learning_rate": math.exp(mean), "steps": self.budget.steps},
            seed=self.context.seed,
            options=self.options(),
        )
        tensors = {
            "log_rate": torch.tensor([mean, spread], dtype=torch.float64), "schedule": factors, "scores": scores,
        }  # fmt: skip
        return Distilled(knowledge, tensors)

    def _histories(self, tasks: Sequence[Task]) -> tuple[list[Task], Tensor, Tensor, dict[str, str]]:
        """(tasks that could be trained, the validation score of each by schedule and rate, that with the budget's own
        rate, why others could not). A training that diverges has the worst score that the task reached. DataError if
        none could be trained.
        """
        jobs = []
        for task in tasks:
            seed = self.context.seed_for("strategy", task.task_id)
            lesson = without_model(drawn(task, self.budget.samples, seed), ("train", "validation"))
            settings = [(rate, factors) for factors in SCHEDULES.values() for rate in self.rates]
            jobs.append(Job(_trained, (task.model, lesson, self.budget, settings, seed), label=task.task_id))
        rows: dict[int, Tensor] = {}
        left_out: dict[str, str] = {}
        for index, row in self.context.jobs(jobs):
            values = torch.tensor([] if isinstance(row, str) else row, dtype=torch.float64)
            finite = values[~values.isnan()]
            if len(finite):
                rows[index] = torch.where(values.isnan(), finite.min(), values)
            else:
                left_out[tasks[index].task_id] = row if isinstance(row, str) else "each of its trainings diverges"
        if not rows:
            why = "; ".join(f"{task} {reason}" for task, reason in left_out.items())
            raise DataError(f"distillation of a strategy: no task could be trained ({why})")
        table = torch.stack([rows[index] for index in sorted(rows)])
        found = [tasks[index] for index in sorted(rows)]
        return found, table[:, :-1].reshape(len(found), len(SCHEDULES), len(self.rates)), table[:, -1], left_out

    def _prior(self, share: Tensor) -> tuple[int, float, float]:
        """(place of the schedule, mean and standard deviation of the log rate) from shares [T, S, R]."""
        place = int(share.amax(2).mean(0).argmax())
        weights = (self.sharpness * share[:, place]).softmax(1)
        logs = torch.tensor([math.log(r) for r in self.rates], dtype=share.dtype)
        expected = weights @ logs
        within = (weights @ logs.square() - expected.square()).clamp_min(0).mean()
        between = expected.var(unbiased=False)
        return place, float(expected.mean()), float((within + between).sqrt())

    def apply(self, model: nn.Module, knowledge: Distilled, rate: float) -> nn.Module:
        check_rate(rate)
        changed = copy_of(model)
        default = math.log(self.budget.learning_rate)
        wanted = float(knowledge.tensors["log_rate"][0])
        factors = [1.0 + rate * (float(f) - 1.0) for f in knowledge.tensors["schedule"]]
        found = TrainingStrategy(math.exp(default + rate * (wanted - default)), tuple(factors))
        changed.training_strategy = found  # type: ignore[assignment]
        return changed


@attrs.frozen
class TrainingStrategy:
    """A learning rate, and its factors in equal parts of a training."""

    learning_rate: float
    factors: tuple[float, ...] = (1.0,)


def train_with(
    model: nn.Module, task: Task, budget: Budget, generator: torch.Generator, strategy: TrainingStrategy | None = None
) -> History:
    """`crosstask.learning.fit` with a strategy in place of the budget's learning rate: by default the one that
    `Strategy.apply` left on the model. The optimiser starts anew in each part.
    """
    found = strategy or getattr(model, "training_strategy", None)
    if not isinstance(found, TrainingStrategy):
        raise DataError("the model carries no training strategy: apply the knowledge of a `strategy` distiller first")
    parts = min(len(found.factors), budget.steps)
    history = History()
    for number, factor in enumerate(found.factors[:parts]):
        steps = budget.steps * (number + 1) // parts - budget.steps * number // parts
        own = attrs.evolve(budget, learning_rate=found.learning_rate * factor)
        history.extend(fit(model, task, own, generator, steps=steps, curve_split=None))
    return history


def _shares(task: Task, scores: Tensor) -> Tensor:
    """Scores [S, R] as shares of the best, in [0, 1]: of what lies above the lowest that there can be; of negated
    errors, which have no lowest, the smallest error as a share of each.
    """
    least = metric_of(task).range[0]
    if math.isinf(least) and bool((scores < 0).all()):
        return scores.amax() / scores
    above = scores - (float(scores.min()) if math.isinf(least) else least)
    return above / above.amax().clamp_min(1e-9)


def _trained(
    model: nn.Module, task: Task, budget: Budget, settings: Sequence[tuple[float, tuple[float, ...]]], seed: int
) -> list[float] | str:
    """Validation scores of an architecture trained anew with each setting, and last with the budget's own rate; NaN
    where it diverges. Why it cannot be trained at all, if so.
    """
    scores = []
    for rate, factors in [*settings, (budget.learning_rate, (1.0,))]:
        try:
            fresh = fresh_model(model, task, seed)
            train_with(fresh, task, budget, torch.Generator().manual_seed(seed), TrainingStrategy(rate, factors))
            scores.append(evaluate(fresh, task, "validation"))
        except RunError:
            scores.append(math.nan)
        except Exception as error:  # the user's own code
            return str(error) if isinstance(error, CrosstaskError) else f"{type(error).__name__}: {error}"
    return scores
