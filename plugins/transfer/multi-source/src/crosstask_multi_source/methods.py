"""Transfer methods that learn a target from several sources at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.components import Component
from crosstask.errors import DataError
from crosstask.graph import TransferGraph
from crosstask.learning.architecture import architecture
from crosstask.learning.averaging import greedy_mean, mean_weights
from crosstask.learning.likeness import ALIKE, likeness
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.objectives import metric_of
from crosstask.learning.own_models import copied
from crosstask.learning.training import History, evaluate, fit, predict
from crosstask.learning.transferring import scratch_scores, scratch_seeds
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Cost
from crosstask.tasks import Task
from crosstask_multi_source.networks import mean_of
from crosstask_multi_source.records import MultiSourceResult
from crosstask_multi_source.work import Draw, Start, Work, choose_sources


@component
class MultiSource(Transfer):
    """Learns a target from several sources: write `starts`, and `joined` if there are several.

    `learn` is what it does with one source: what its `method` does.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"several"})
    chooses: ClassVar[bool] = False
    """Whether it is a choice among others."""

    method: Part = part("transfer", help="how the target is learned from each start (lp_ft by default)")
    most: int = option(3, ge=1, help="take at most so many sources, those that help most by the graph")

    @abstractmethod
    def starts(self, work: Work) -> list[Start]:
        """The models that the target is learned from, each by `method`, with the whole budget. DataError if the sources
        do not allow it.
        """

    def joined(self, models: Sequence[nn.Module], work: Work, draw: Draw) -> tuple[nn.Module, Cost, str]:
        """(one network of the models that were learned from the starts on a draw, what that took, a note or nothing)"""
        return models[0], Cost(), ""

    @property
    def inner(self) -> Transfer:
        """The method by which each start is learned from."""
        (made,) = self.made_of("method")
        if not isinstance(made, Transfer) or "several" in made.capabilities:
            raise DataError(f"{self.origin}: method must learn from one source, {made.origin} learns from several")
        return made

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return self.inner.learn(model, source, task, budget, generator)

    def transfer_several(
        self,
        sources: list[Task],
        target: Task,
        graph: TransferGraph | None,
        train: Budget,
        budget: Budget,
        seeds: int,
        split: str,
    ) -> MultiSourceResult:
        chosen, notes = choose_sources(sources, target, graph, self.most)
        work = Work(self.context, self.inner, chosen, target, train, budget)
        edges = [None if graph is None else graph.edge(source.task_id, target.task_id) for source in chosen]
        work.ranked = all(edge is not None and edge.measured for edge in edges)
        draws = work.draws(scratch_seeds(self.context, target, seeds))
        return self.measured(work, notes, draws, split)

    def measured(self, work: Work, notes: Sequence[str], draws: Sequence[Draw], split: str) -> MultiSourceResult:
        """What is learned on each draw, judged on `split` beside the best single source and scratch with the same
        budget, seeds and samples.
        """
        starts = self.starts(work)
        made = [self.joined(models, work, draw) for models, draw in zip(work.learn(starts, draws), draws, strict=True)]
        modules = [module for module, _, _ in made]
        told = list(dict.fromkeys(note for _, _, note in made if note))
        cost = work.cost(starts, more=made[0][1])
        return self.result(work, draws, modules, cost, starts, [*notes, *told], split)

    def result(
        self,
        work: Work,
        draws: Sequence[Draw],
        modules: Sequence[nn.Module],
        cost: Cost,
        starts: Sequence[Start],
        notes: Sequence[str],
        split: str,
    ) -> MultiSourceResult:
        """The record of what was learned on each draw."""
        target, best = work.target, work.single(work.sources[0])
        singles = [models[0] for models in work.learn([best], draws)]
        metric = metric_of(target)
        scores = [evaluate(module, target, split) for module in modules]
        single = [evaluate(module, target, split) for module in singles]
        controls = scratch_scores(self.context, best.model, target, work.budget, len(draws), split)
        return MultiSourceResult(
            sources=tuple(dict.fromkeys(name for start in starts for name in start.sources)),
            target=target.task_id,
            strategy=self.origin,
            metric=metric.told,
            split=split,
            score=confidence_interval(scores, metric.range),
            single_score=confidence_interval(single, metric.range),
            scratch_score=confidence_interval([score for score, _ in controls], metric.range),
            cost=attrs.evolve(cost, parameters=weights(modules[0])),
            single_cost=attrs.evolve(work.cost([best]), parameters=weights(singles[0])),
            notes=tuple(notes),
            seed=self.context.seed,
            seeds=len(draws),
            budget=work.budget,
            options=self.options(),
            chosen=self.name,
            gain=confidence_interval([a - b for a, b in zip(scores, single, strict=True)], metric.gains),
        ).with_model(copied(modules[0]))


def weights(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(p.numel() for p in model.parameters())


@component
class Concat(MultiSource):
    """The trunks of the sources side by side, and one new head on all their features.

    Then everything is learned by `method`: by default the head first, then the trunks with it.
    """

    scaled: bool = option(True, help="bring each trunk's features to the size of the best source's")

    def starts(self, work: Work) -> list[Start]:
        return [work.side_by_side([work.single(source) for source in work.sources[: self.most]], self.scaled)]


@component
class Joint(MultiSource):
    """One trunk trained on the data of all sources at once, each with a head of its own; the target is learned from it.

    It has the architecture of the best source, starts from fresh weights and takes as many steps as a source's own
    model, with `batch_size` samples for each source in a step. It does not grow with the number of sources.
    """

    most: int = option(8, ge=1, help="take at most so many sources, those that help most by the graph")

    def starts(self, work: Work) -> list[Start]:
        return [work.joint(work.sources[: self.most])]


@component
class ConcatJoint(MultiSource):
    """The trunk of the best source beside a trunk trained jointly on the others, and one new head on both."""

    most: int = option(8, ge=1, help="take at most so many sources, those that help most by the graph")

    scaled: bool = option(True, help="bring the joint trunk's features to the size of the best source's")

    def starts(self, work: Work) -> list[Start]:
        best, *others = work.sources[: self.most]
        trunks = [work.single(best), *([work.joint(others)] if others else [])]
        return [work.side_by_side(trunks, self.scaled)]


@component
class Ensemble(MultiSource):
    """The mean of the logits of single transfers, one from each source; with `members`, of the best single transfer and
    what these methods learn.

    With `distill` it is distilled into one model of the best source's architecture: what was learned from the best
    source goes on learning, for the budget's steps, to answer the target's training samples as the ensemble does
    (Hinton et al. 2015; the square of the differences for values).
    """

    members: tuple[Part, ...] = part("transfer", (), help="methods whose models stand in for those of further sources")
    distill: bool = option(False, help="distil the ensemble into one model of the best source's architecture")
    temperature: float = option(2.0, gt=0, help="softens the logits of ensemble and student")

    def starts(self, work: Work) -> list[Start]:
        if not self.members:
            return [work.single(source) for source in work.sources[: self.most]]
        found = [work.single(work.sources[0])]
        for method in several(self, "members"):
            if isinstance(method, Ensemble | Soup):
                raise DataError(f"{self.origin}: members learn one model each, {method.origin} learns several")
            found += [start for start in method.starts(work) if all(start is not other for other in found)]
        return found

    def joined(self, models: Sequence[nn.Module], work: Work, draw: Draw) -> tuple[nn.Module, Cost, str]:
        teacher = mean_of(models, draw.task.data("train").inputs[:4])
        if not self.distill or len(models) == 1:
            return teacher, Cost(), ""
        student, held = copied(models[0]), draw.task
        data = held.data("train")
        logits = predict(teacher, data.inputs)
        lesson = attrs.evolve(held.descriptor, task_type="distillation", classes=())
        task = Task(descriptor=lesson, train=attrs.evolve(data, targets=logits), loss=self._loss(held))
        budget = attrs.evolve(work.budget, samples=None, patience=None)
        fit(student, task, budget, torch.Generator().manual_seed(draw.seed), curve_split=None)
        split = "validation" if held.has_data("validation") else "train"
        seen = held.data(split).inputs
        agreed = agreement(predict(student, seen), predict(teacher, seen), held)
        note = f"the distilled model agrees with the ensemble on {agreed:.1%} of the {split} samples"
        cost = Cost(steps=budget.steps, samples=budget.steps * budget.accumulate * min(budget.batch_size, len(data)))
        return student.eval(), cost, note

    def _loss(self, task: Task) -> nn.Module:
        return Soft(task.descriptor.task_type, task.descriptor.output_dim or 1, self.temperature)


class Soft(nn.Module):
    """What a student's logits [N, …] are away from a teacher's, by the type of their task."""

    def __init__(self, kind: str, outputs: int, temperature: float) -> None:
        super().__init__()
        self.kind, self.outputs, self.temperature = kind, outputs, temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        t = self.temperature
        if self.kind == "multilabel" or (self.kind == "classification" and self.outputs == 1):
            wanted = (teacher / t).sigmoid()
            return functional.binary_cross_entropy_with_logits(student / t, wanted) * t**2
        if self.kind in ("classification", "segmentation", "token_classification"):
            dim = -1 if self.kind == "token_classification" else 1
            return -((teacher / t).softmax(dim) * (student / t).log_softmax(dim)).sum(dim).mean() * t**2
        return functional.mse_loss(student, teacher)


def agreement(ours: Tensor, theirs: Tensor, task: Task) -> float:
    """The share of decisions in which two models' outputs agree; of values, 1 - |difference|² / variance."""
    kind = task.descriptor.task_type
    if kind == "multilabel" or (kind == "classification" and ours.shape[-1] == 1):
        return float(((ours > 0) == (theirs > 0)).double().mean())
    if kind in ("classification", "segmentation", "token_classification"):
        dim = -1 if kind == "token_classification" else 1
        return float((ours.argmax(dim) == theirs.argmax(dim)).double().mean())
    spread = float((theirs - theirs.mean(0)).double().square().mean()) or 1.0
    return 1 - float((ours - theirs).double().square().mean()) / spread


def several(component: Component, option: str) -> list[MultiSource]:
    """The parts of a component that learn from several sources, each one model or more of its starts."""
    found = []
    for made in component.made_of(option):
        if not isinstance(made, MultiSource) or made.chooses:
            raise DataError(
                f"{component.origin}: {option} are methods that learn from several sources in one way, not "
                f"{made.origin}"
            )
        found.append(made)
    return found


@component
class Soup(MultiSource):
    """The weights of single transfers averaged: the greedy soup of Wortsman et al. (2022, recipe 1), made by
    `crosstask.learning.averaging.greedy_mean`, as `adapt` makes it of the sources that it is given.

    Models are added in the order of their scores on the target's validation data, and stay where the mean is no worse
    there; without validation data all are averaged. It is for sources of one architecture that began from the same
    weights: means of networks that were trained apart are none, and DataError says so.
    """

    def starts(self, work: Work) -> list[Start]:
        starts = [work.single(source) for source in work.sources[: self.most]]
        best = starts[0]
        for other in starts[1:]:
            pair = f"{best.sources[0]} and {other.sources[0]}"
            if architecture(other.model) != architecture(best.model):
                raise DataError(f"no soup of {pair}: their models have different architectures; concat takes them")
            if (cosine := likeness(best.model, other.model)) < ALIKE:
                raise DataError(
                    f"no soup of {pair}: their weights did not begin as the same (cosine {cosine:.2f}), and the mean "
                    "of networks that were trained apart is none; ensemble takes them"
                )
        return starts

    def joined(self, models: Sequence[nn.Module], work: Work, draw: Draw) -> tuple[nn.Module, Cost, str]:
        if len(models) == 1 or not draw.task.has_data("validation"):
            return mean_weights(models), Cost(), "" if len(models) == 1 else "no validation data: all were averaged"
        made, _ = greedy_mean(models, lambda model: evaluate(model, draw.task, "validation"))
        return made, Cost(), ""
