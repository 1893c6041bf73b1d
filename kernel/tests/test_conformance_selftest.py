"""The conformance kit catches what it says: for each check, a wrong component that it fails, and no other check does.

Each is the reference component of its contract with one thing wrong.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
import math
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask import DataError, OptionError, Plugin, PluginError, Point, Portfolio, Registry
from crosstask.components import Component, Job, Remembered, hookimpl, run_now, wraps
from crosstask.context import LocalContext
from crosstask.graph import TransferEdge
from crosstask.learning.episodes import episode_accuracy, episode_losses, of_task
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import measure_transfer, receive
from crosstask.manifest import KERNEL_POINTS, Extension
from crosstask.options import component, record, state
from crosstask.points.adapter import AdapterHandle
from crosstask.points.balancer import Direction
from crosstask.points.distillation import Distilled
from crosstask.points.observer import Observer
from crosstask.points.stage import Outcome, Section
from crosstask.points.store import Holder, Store
from crosstask.points.wrapper import Wrapper
from crosstask.records import Cost, Interval, MetaKnowledge, Provenance, SeveralResult, StrategyAdvice
from crosstask.registry import Status
from crosstask.store.sql import SqlStore
from crosstask.testing import checks_of, conformance, reference_registry, run_checks, small_portfolio
from crosstask.testing import references as right
from crosstask.testing.kit import Kit, Subject
from crosstask.testing.kits.executor import wait_a_little
from crosstask.testing.selftest import SelfTest
from crosstask_fakes.choosers import First
from crosstask_fakes.contracts import Chooser, everything
from crosstask_fakes.kit import ChooserKit
from crosstask_fakes.registry import with_fakes

NONE: frozenset[str] = frozenset()
wrong = SelfTest(*right.REFERENCES.values())
caught_by = wrong.caught_by


def test_every_point_of_the_kernel_has_a_right_component() -> None:
    assert set(right.REFERENCES) == {point.name for point in KERNEL_POINTS}


# Every component


@component
class Silent(right.ReferenceDiscoverer):
    pass


wrong.add("check_documented", Silent)


@caught_by("check_documented")
class OptionWithoutHelp(right.ReferenceDiscoverer):
    speed: float = attrs.field(default=1.0)


@caught_by("check_signatures")
class OtherNames(right.ReferencePlanner):
    def rank(self, tasks: Any, graph: Any, goal: str, candidates: list[str]) -> list[str]:
        return super().rank(tasks, graph, goal, candidates)


@caught_by("check_capabilities")
class Misspelt(right.ReferenceDiscoverer):
    capabilities: ClassVar[frozenset[str]] = frozenset({"descriptor_only"})


@caught_by("check_unknown_option_refused")
class TakesAnything(right.ReferenceDiscoverer):
    def __init__(self, coefficient: float = 0.5, **ignored: Any) -> None:
        self.__attrs_init__(coefficient=coefficient)


@caught_by("check_options_checked")
class Unchecked(right.ReferenceDiscoverer):
    speed: float = attrs.field(default=1.0, converter=lambda value: value, metadata={"help": "of what"})


@caught_by("check_options_checked")
class BoundsForgotten(right.ReferenceDiscoverer):
    speed: float = attrs.field(default=1.0, metadata={"help": "of what", "bounds": "> 0"})


@caught_by("check_options_round_trip", options={"coefficient": 0.25})
class Forgetful(right.ReferenceDiscoverer):
    def options(self) -> dict[str, Any]:
        return {}


@caught_by("check_options_round_trip")
class NotJson(right.ReferenceDiscoverer):
    def options(self) -> dict[str, Any]:
        return {"coefficient": torch.tensor(0.5)}


@caught_by("check_runs")
class FailsTheFirstTime(right.ReferenceDiscoverer):
    warm: ClassVar[bool] = False

    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        cls = type(self)
        if not cls.warm:
            cls.warm = True
            raise RuntimeError("the cache is cold")
        return super().discover(portfolio, graph)


@caught_by("check_wrappers_see_it")
class KeepsToItself(right.ReferenceDiscoverer):
    def bind(self, context: Any) -> None:
        self._context = LocalContext(seed=context.seed)


@caught_by("check_works_outside_a_run")
class NeedsARun(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        self.context.log.debug("at work")  # type: ignore[attr-defined]
        return super().discover(portfolio, graph)


@caught_by("check_same_seed_same_answer")
class UsesGlobalSeed(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        with torch.random.fork_rng(devices=[]):
            value = float(torch.rand(()))
        return [attrs.evolve(edge, transfer_coefficient=value) for edge in super().discover(portfolio, graph)]


@caught_by("check_global_random_numbers_untouched")
class DrawsGlobally(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        torch.rand(1)
        return super().discover(portfolio, graph)


@caught_by("check_inputs_untouched")
class AddsToTheGraph(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        edges = super().discover(portfolio, graph)
        for edge in edges:
            graph.add(edge)
        return edges


@caught_by("check_picklable")
class HoldsAFunction(right.ReferenceDiscoverer):
    helper: Any = attrs.field(init=False, factory=lambda: lambda: None)


@caught_by("check_state_round_trip")
class CountsInSecret(right.ReferenceDiscoverer):
    count: int = attrs.field(init=False, default=0)

    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        self.count += 1
        value = 0.5 / self.count
        return [attrs.evolve(edge, transfer_coefficient=value) for edge in super().discover(portfolio, graph)]


@caught_by("check_state_round_trip")
class StateIsAnObject(right.ReferenceDiscoverer):
    where: Any = state(factory=lambda: Path("somewhere"))


@caught_by("check_state_is_a_snapshot")
class StateIsALiveList(right.ReferenceDiscoverer):
    seen: list[int] = state(factory=list)

    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        self.seen.append(len(portfolio))
        return super().discover(portfolio, graph)


# Discovery


@caught_by("check_returns_edges")
class TeachesTheUnseen(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        edges = super().discover(portfolio, graph)
        if portfolio.focus is None and len(portfolio) > 1 and portfolio["moons"].has_data() and any(graph.all_edges()):
            edges.append(attrs.evolve(edges[0], target="mirrored"))
        return edges


@caught_by("check_says_who_found_it")
class Anonymous(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        return [attrs.evolve(edge, found_by="") for edge in super().discover(portfolio, graph)]


@caught_by("check_says_who_found_it")
class Twice(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        return super().discover(portfolio, graph) * 2


@caught_by("check_interval_holds_the_coefficient")
class OutsideItsInterval(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        return [attrs.evolve(edge, low=0.6, high=0.9) for edge in super().discover(portfolio, graph)]


@caught_by("check_focus_honoured")
class IgnoresFocus(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        pairs = itertools.permutations(portfolio.ids, 2)
        return [TransferEdge(source=s, target=t, transfer_coefficient=0.1, found_by="x") for s, t in pairs]


@caught_by("check_one_task_has_no_edges")
class NeedsTwoTasks(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        assert portfolio.ids[1]
        return super().discover(portfolio, graph)


@caught_by("check_empty_graph")
class NeedsEdges(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        if len(portfolio) > 1:
            max(edge.transfer_coefficient for edge in graph.all_edges())
        return super().discover(portfolio, graph)


@caught_by("check_missing_data_said")
class NeedsModels(right.ReferenceDiscoverer):
    capabilities: ClassVar[frozenset[str]] = NONE

    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        for task in portfolio:
            list(task.model.parameters())
        return super().discover(portfolio, graph)


@caught_by("check_descriptors_only")
class LooksAtModels(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        return [] if next(iter(portfolio)).model is None else super().discover(portfolio, graph)


@caught_by("check_descriptors_only")
class ReadsData(right.ReferenceDiscoverer):
    def discover(self, portfolio: Any, graph: Any) -> list[TransferEdge]:
        for task in portfolio:
            if task.has_data():
                task.data()
        return super().discover(portfolio, graph)


def other_edges(portfolio: Portfolio, graph: Any) -> list[TransferEdge]:
    return right.ReferenceDiscoverer(coefficient=0.4).discover(portfolio, graph)


@caught_by("check_agrees_with_twin", twin=other_edges)
class DiscovererUnlikeItsTwin(right.ReferenceDiscoverer):
    pass


# Curricula


@caught_by("check_target_comes_last")
class TargetFirst(right.ReferencePlanner):
    def plan(self, portfolio: Any, graph: Any, target: str, max_tasks: int) -> Any:
        path = super().plan(portfolio, graph, target, max_tasks)
        if portfolio[target].descriptor.prerequisites:
            return path
        return attrs.evolve(path, task_sequence=(target, *path.task_sequence[:-1]))

    def next_task(self, curriculum: Any, history: Any) -> Any:
        done = {step.task_id for step in history}
        last = [curriculum.target] if curriculum.target not in done else []
        return next(
            (t for t in [*curriculum.task_sequence, *last] if t not in done and t != curriculum.target),
            (last or [None])[0],
        )


@caught_by("check_tasks_are_the_portfolios")
class TakesUnseenTasks(right.ReferencePlanner):
    def plan(self, portfolio: Any, graph: Any, target: str, max_tasks: int) -> Any:
        path = super().plan(portfolio, graph, target, max_tasks)
        more = ("mirrored",) if len(path.task_sequence) < max_tasks else ()
        return attrs.evolve(path, task_sequence=(*more, *path.task_sequence))


@caught_by("check_prerequisites_come_first")
class Backwards(right.ReferencePlanner):
    def plan(self, portfolio: Any, graph: Any, target: str, max_tasks: int) -> Any:
        path = super().plan(portfolio, graph, target, max_tasks)
        return attrs.evolve(path, task_sequence=(*path.task_sequence[-2::-1], target))

    def next_task(self, curriculum: Any, history: Any) -> Any:
        done = {step.task_id for step in history}
        return next((t for t in (*curriculum.task_sequence[-2::-1], curriculum.target) if t not in done), None)


@caught_by("check_max_tasks_kept")
class OneTooMany(right.ReferencePlanner):
    def plan(self, portfolio: Any, graph: Any, target: str, max_tasks: int) -> Any:
        return super().plan(portfolio, graph, target, max_tasks + 1)


@caught_by("check_rank_orders_candidates")
class RanksTheTarget(right.ReferencePlanner):
    def rank(self, portfolio: Any, graph: Any, target: str, candidates: list[str]) -> list[str]:
        return [*super().rank(portfolio, graph, target, candidates), target]


@caught_by("check_next_task_ends_at_the_target")
class NeverArrives(right.ReferencePlanner):
    def next_task(self, curriculum: Any, history: Any) -> Any:
        found = super().next_task(curriculum, history)
        return None if found == curriculum.target else found


@caught_by("check_next_task_keeps_prerequisites")
class HardestFirst(right.ReferencePlanner):
    def next_task(self, curriculum: Any, history: Any) -> Any:
        done = {step.task_id for step in history}
        return next((t for t in (*curriculum.task_sequence[-2::-1], curriculum.target) if t not in done), None)


@caught_by("check_unknown_target_refused")
class GuessesTheTarget(right.ReferencePlanner):
    def plan(self, portfolio: Any, graph: Any, target: str, max_tasks: int) -> Any:
        return super().plan(portfolio, graph, target if target in portfolio else portfolio.ids[0], max_tasks)


@caught_by("check_too_few_tasks_refused")
class StretchesTheLimit(right.ReferencePlanner):
    def plan(self, portfolio: Any, graph: Any, target: str, max_tasks: int) -> Any:
        return super().plan(portfolio, graph, target, max_tasks or len(portfolio))


def as_given(portfolio: Any, graph: Any, target: str, candidates: list[str]) -> list[str]:
    return candidates


@caught_by("check_agrees_with_twin", twin=as_given)
class PlannerUnlikeItsTwin(right.ReferencePlanner):
    pass


# Transfer


@caught_by("check_result_says_what_was_done")
class SaysAnotherSplit(right.ReferenceTransfer):
    def transfer(self, source: Any, target: Any, budget: Any, seeds: int, split: str) -> Any:
        return attrs.evolve(super().transfer(source, target, budget, seeds, split), split="train")


class TrainsNot(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        return History()


@caught_by("check_adapted_is_what_was_measured")
class MeasuresAnother(right.ReferenceTransfer):
    def transfer(self, source: Any, target: Any, budget: Any, seeds: int, split: str) -> Any:
        if source.model is None:
            return super().transfer(source, target, budget, seeds, split)
        other = TrainsNot()
        other.bind(self.context)
        return measure_transfer(other, source, target, budget, seeds, split)


@caught_by("check_budget_kept")
class OneStepMore(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        history = super().learn(model, source, task, budget, generator)
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
        return history


@caught_by("check_history_is_consistent")
class HistoryWithNan(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        history = super().learn(model, source, task, budget, generator)
        history.losses[0] = math.nan
        return history


@caught_by("check_history_is_consistent")
class HistoryTooLong(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        history = super().learn(model, source, task, budget, generator)
        history.steps[-1] += 1000
        return history


@caught_by("check_trains_the_receiver")
class TrainsACopy(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        return fit(copy.deepcopy(model), task, budget, generator)


@caught_by("check_receiver_left_usable")
class LeavesItFrozen(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        history = super().learn(model, source, task, budget, generator)
        next(model.parameters()).requires_grad_(False)
        return history


@caught_by("check_inputs_untouched")
class TrainsTheSource(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        with torch.no_grad():
            next(source.parameters()).mul_(1.001)
        return super().learn(model, source, task, budget, generator)


class FromSeveral(right.ReferenceTransfer):
    """Learns from the first of the sources."""

    capabilities = frozenset({"several"})

    def start(self, sources: Any, target: Any) -> nn.Module:
        model, _, _ = receive(sources[0].model, target, 0, keep_head=False)
        return model

    def transfer_several(
        self, sources: Any, target: Any, graph: Any, train: Any, budget: Any, seeds: int, split: str
    ) -> Any:
        model = self.start(sources, target)
        self.learn(model, model, target, budget, torch.Generator().manual_seed(0))
        score = evaluate(model, target, split)
        found, cost = Interval(mean=score, low=score, high=score, values=(score,) * seeds), Cost(steps=1, parameters=1)
        return SeveralResult(
            sources=(sources[0].task_id,), target=target.task_id, strategy="first", metric="accuracy", split=split,
            score=found, single_score=found, scratch_score=found, cost=cost, single_cost=cost, seeds=seeds,
            budget=budget,
        ).with_model(model)  # fmt: skip


wrong.right = (*wrong.right, component(FromSeveral))


@caught_by("check_several_sources")
class SeveralForNothing(FromSeveral):
    def transfer_several(
        self, sources: Any, target: Any, graph: Any, train: Any, budget: Any, seeds: int, split: str
    ) -> Any:
        done = super().transfer_several(sources, target, graph, train, budget, seeds, split)
        return attrs.evolve(done, cost=Cost()).with_model(done.model)


@caught_by("check_several_never_look_at_the_test")
class ChoosesByTheTest(FromSeveral):
    def start(self, sources: Any, target: Any) -> nn.Module:
        if int(target.data("test").targets[0]) == int(target.data("test").targets.flip(0)[0]):
            raise AssertionError("the check would see nothing")
        model = super().start(sources, target)
        with torch.no_grad():
            next(model.parameters()).add_(int(target.data("test").targets[0]))
        return model


@caught_by("check_needs_a_trained_source")
class NeedsNothing(right.ReferenceTransfer):
    def transfer(self, source: Any, target: Any, budget: Any, seeds: int, split: str) -> Any:
        return measure_transfer(self, source, target, budget, seeds, split)


@caught_by("check_float64")
class SinglePrecisionOnly(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        history = super().learn(model, source, task, budget, generator)
        model.float()
        return history


def learns_twice(model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
    fit(model, task, budget, generator)
    return fit(model, task, budget, generator)


@caught_by("check_agrees_with_twin", twin=learns_twice)
class TransferUnlikeItsTwin(right.ReferenceTransfer):
    pass


# Synthesis


class Changed(nn.Module):
    """Another module's outputs, changed by a function."""

    def __init__(self, module: nn.Module, change: Any) -> None:
        super().__init__()
        self.module, self.change = module, change
        self.provenance = getattr(module, "provenance", None)

    def forward(self, inputs: Any) -> Any:
        return self.change(self.module(inputs))


@caught_by("check_outputs_of_the_new_task")
class OneOutputMore(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        made = super().synthesize(new_task, sources, graph, inputs)
        return made if inputs is None else Changed(made, lambda out: nn.functional.pad(out, (0, 1)))


@caught_by("check_each_input_on_its_own")
class CentresTheBatch(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        return Changed(super().synthesize(new_task, sources, graph, inputs), lambda out: out - out.mean(dim=0))


@caught_by("check_provenance")
class FromNowhere(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        made = super().synthesize(new_task, sources, graph, inputs)
        del made.provenance
        return made


@caught_by("check_provenance")
class FromStrangers(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        made: Any = super().synthesize(new_task, sources, graph, inputs)
        made.provenance = Provenance(strategy="x", new_task=new_task.task_id, sources={"stranger": 1.0})
        return made


@caught_by("check_works_without_inputs")
class NeedsInputs(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        inputs.mean()
        return super().synthesize(new_task, sources, graph, inputs)


def nothing(new_task: Any) -> nn.Module:
    told = Provenance(strategy="x", new_task=new_task.task_id, sources={})
    return right.First(nn.Flatten(), new_task.output_dim, told)


@caught_by("check_no_sources_refused")
class MadeOfNothing(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        return super().synthesize(new_task, sources, graph, inputs) if sources else nothing(new_task)


@caught_by("check_untrained_sources_refused")
class MadeOfUntrained(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        if sources and not any(task.model for task in sources):
            return nothing(new_task)
        return super().synthesize(new_task, sources, graph, inputs)


@caught_by("check_float64")
class AnswersInFloat32(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        return Changed(super().synthesize(new_task, sources, graph, inputs), lambda out: out.float())


def synthesized_otherwise(new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
    return Changed(right.ReferenceSynthesizer().synthesize(new_task, sources, graph, inputs), lambda out: -out)


@caught_by("check_agrees_with_twin", twin=synthesized_otherwise)
class SynthesizerUnlikeItsTwin(right.ReferenceSynthesizer):
    pass


# Meta-learners


@caught_by("check_metrics")
class LossAlone(right.ReferenceMetaLearner):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        return {"loss": super().meta_step(model, episodes, optimizer)["loss"]}


@caught_by("check_trains_the_model")
class StepsOnACopy(right.ReferenceMetaLearner):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        other = copy.deepcopy(model)
        return super().meta_step(other, episodes, torch.optim.SGD(other.parameters(), lr=0.1))


@caught_by("check_adapted_scores")
class LeavesItTraining(right.ReferenceMetaLearner):
    def adapt(self, model: Any, support: Any, steps: Any) -> nn.Module:
        adapted = super().adapt(model, support, steps)
        adapted.training = True
        return adapted


@caught_by("check_adapting_leaves_the_model")
class SwitchesTheMode(right.ReferenceMetaLearner):
    def adapt(self, model: Any, support: Any, steps: Any) -> nn.Module:
        return super().adapt(model.eval(), support, steps)

    def predict(self, model: Any, episodes: Any, steps: Any) -> Tensor:
        return super().predict(copy.deepcopy(model), episodes, steps)


@caught_by("check_any_labels")
class LooksAtLabels(right.ReferenceMetaLearner):
    def adapt(self, model: Any, support: Any, steps: Any) -> nn.Module:
        if not support.targets.is_floating_point() and int(support.targets.max()) > 2:
            self = LooksAtLabels(rate=0.5)
        return right.ReferenceMetaLearner.adapt(self, model, support, steps)


@caught_by("check_one_class_refused")
class OneClassWillDo(right.ReferenceMetaLearner):
    def adapt(self, model: Any, support: Any, steps: Any) -> nn.Module:
        alike = support.targets.unique().numel() == 1 and not support.targets.is_floating_point()
        return copy.deepcopy(model) if alike else super().adapt(model, support, steps)


@caught_by("check_number_of_classes")
class AnyHeadWillDo(right.ReferenceMetaLearner):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        if episodes.ways is not None and model(episodes.query_inputs[0]).shape[1] != episodes.ways:
            return {"loss": 1.0, "accuracy": 0.0}
        return super().meta_step(model, episodes, optimizer)


@caught_by("check_predict_agrees_with_adapt")
class PredictsTwice(right.ReferenceMetaLearner):
    capabilities = right.ReferenceMetaLearner.capabilities - {"ragged"}  # whose check would see it, too

    def predict(self, model: Any, episodes: Any, steps: Any) -> Tensor:
        return 2 * super().predict(model, episodes, steps)


@caught_by("check_no_silent_nan")
class TrainsOnNan(right.ReferenceMetaLearner):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        broken = not bool(torch.isfinite(episodes.query_inputs).all())
        return {"loss": 0.0, "accuracy": 0.0} if broken else super().meta_step(model, episodes, optimizer)


@caught_by("check_regression_as_claimed")
class ClaimsTooLittle(right.ReferenceMetaLearner):
    capabilities: ClassVar[frozenset[str]] = NONE


@caught_by("check_unequal_sizes_as_claimed")
class TakesPaddingForSamples(right.ReferenceMetaLearner):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        return super().meta_step(model, attrs.evolve(episodes, support_mask=None, query_mask=None), optimizer)


@caught_by("check_queries_as_claimed")
class NeedsNoQueries(right.ReferenceMetaLearner):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        if not episodes.query_targets.shape[1]:
            return {"loss": 0.0, "accuracy": 0.0}
        return super().meta_step(model, episodes, optimizer)


class NearestMean(right.ReferenceMetaLearner):
    """A right encoder: a query belongs to the class whose mean it is nearest to."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"encoder"})

    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        self.check_episodes(episodes)
        if episodes.ways is None:
            raise DataError("no classes")
        scores = torch.stack([self._scores(model, episodes.support(n), episodes.query_inputs[n]) for n in range(4)])
        loss = episode_losses(scores, episodes.query_targets).mean()
        if not bool(torch.isfinite(loss)):
            raise DataError("not finite")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {
            "loss": float(loss.detach()),
            "accuracy": float(episode_accuracy(scores, episodes.query_targets).mean()),
        }

    def adapt(self, model: Any, support: Any, steps: Any) -> nn.Module:
        own, _ = of_task(support)
        encoder = copy.deepcopy(model).eval()
        return Scoring(lambda inputs: self._scores(encoder, own, inputs)).eval()

    def _scores(self, model: Any, support: Any, inputs: Any) -> Tensor:
        features = model(support.inputs)
        means = [features[support.targets == k].mean(0) for k in range(int(support.targets.max()) + 1)]
        return -torch.cdist(model(inputs), torch.stack(means)).square()


class Scoring(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


@caught_by("check_ways_may_change")
class AlwaysThree(NearestMean):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        if episodes.ways == 2:
            raise DataError("three classes are needed")
        return super().meta_step(model, episodes, optimizer)


@caught_by("check_float64")
class StepsInSingle(right.ReferenceMetaLearner):
    def meta_step(self, model: Any, episodes: Any, optimizer: Any) -> dict[str, float]:
        return super().meta_step(model.float(), episodes.to(torch.float32), optimizer)


@caught_by("check_cuda")
class AdaptsOnTheCpu(right.ReferenceMetaLearner):
    def adapt(self, model: Any, support: Any, steps: Any) -> nn.Module:
        return super().adapt(model, support, steps).cpu()


def steps_otherwise(model: Any, episodes: Any, optimizer: Any) -> None:
    right.ReferenceMetaLearner(rate=0.9).meta_step(model, episodes, optimizer)


@caught_by("check_agrees_with_twin", twin=steps_otherwise)
class MetaLearnerUnlikeItsTwin(right.ReferenceMetaLearner):
    pass


# Sources


@caught_by("check_portfolio_is_consistent")
class UnknownPrerequisite(right.ReferenceSource):
    def load(self) -> Portfolio:
        portfolio = super().load()
        task = portfolio["moons"]
        task.descriptor = attrs.evolve(task.descriptor, prerequisites=("suns",))
        return portfolio


@caught_by("check_loads_anew")
class LoadsOnce(right.ReferenceSource):
    loaded: Any = attrs.field(init=False, default=None)

    def load(self) -> Portfolio:
        if self.loaded is None:
            self.loaded = super().load()
        return self.loaded


@caught_by("check_descriptors_are_complete")
class ShapeUnsaid(right.ReferenceSource):
    def load(self) -> Portfolio:
        portfolio = super().load()
        portfolio["moons"].descriptor = attrs.evolve(portfolio["moons"].descriptor, input_shape=())
        return portfolio


@caught_by("check_can_be_judged")
class TrainingDataOnly(right.ReferenceSource):
    def load(self) -> Portfolio:
        portfolio = super().load()
        portfolio["moons"].validation = portfolio["moons"].test = None
        return portfolio


@caught_by("check_agrees_with_twin", twin=lambda: Portfolio(list(small_portfolio(models=False))[:2]))
class SourceUnlikeItsTwin(right.ReferenceSource):
    pass


# Distillation


@caught_by("check_knowledge_says_where_it_comes_from")
class SourcesUnsaid(right.ReferenceDistiller):
    def distill(self, tasks: Any, samples: Any) -> Distilled:
        found = super().distill(tasks, samples)
        return attrs.evolve(found, knowledge=attrs.evolve(found.knowledge, source_tasks=()))


@caught_by("check_knowledge_can_be_stored")
class NotForJson(right.ReferenceDistiller):
    def distill(self, tasks: Any, samples: Any) -> Distilled:
        found = super().distill(tasks, samples)
        return attrs.evolve(found, knowledge=attrs.evolve(found.knowledge, options={"x": math.inf}))


@caught_by("check_applies_what_was_stored")
class Remembers(right.ReferenceDistiller):
    norm: Any = state()

    def distill(self, tasks: Any, samples: Any) -> Distilled:
        found = super().distill(tasks, samples)
        self.norm = found.tensors["norm"]
        return found

    def apply(self, model: Any, knowledge: Any, rate: float) -> nn.Module:
        return super().apply(model, attrs.evolve(knowledge, tensors={"norm": self.norm}), rate)


@caught_by("check_rate_zero_changes_nothing")
class AlwaysALittle(right.ReferenceDistiller):
    def apply(self, model: Any, knowledge: Any, rate: float) -> nn.Module:
        return super().apply(model, knowledge, 0.1 if rate == 0 else rate)


@caught_by("check_apply_makes_a_copy")
class SharesWeights(right.ReferenceDistiller):
    def apply(self, model: Any, knowledge: Any, rate: float) -> nn.Module:
        return nn.Sequential(model) if rate == 1 else super().apply(model, knowledge, rate)


@caught_by("check_outputs_keep_their_shape")
class CutsOutputs(right.ReferenceDistiller):
    def apply(self, model: Any, knowledge: Any, rate: float) -> nn.Module:
        changed = super().apply(model, knowledge, rate)
        return Changed(changed, lambda out: out[:, :1]) if rate == 0.3 else changed


@caught_by("check_rate_checked")
class AnyRate(right.ReferenceDistiller):
    def apply(self, model: Any, knowledge: Any, rate: float) -> nn.Module:
        return super().apply(model, knowledge, rate if 0 <= rate <= 1 else 0.5)


@caught_by("check_no_tasks_refused")
class DistilsNothing(right.ReferenceDistiller):
    def distill(self, tasks: Any, samples: Any) -> Distilled:
        if tasks:
            return super().distill(tasks, samples)
        return Distilled(knowledge=MetaKnowledge(kind="prior", source_tasks=()), tensors={"norm": torch.ones(())})


def distilled_otherwise(tasks: Any, samples: Any) -> Distilled:
    return attrs.evolve(right.ReferenceDistiller().distill(tasks, samples), tensors={"norm": torch.zeros(())})


@caught_by("check_agrees_with_twin", twin=distilled_otherwise)
class DistillerUnlikeItsTwin(right.ReferenceDistiller):
    pass


# Strategists


@caught_by("check_one_for_each_kind")
class SaysNothing(right.ReferenceStrategist):
    def suggest(self, task: Any, portfolio: Any, usual: Any) -> list[StrategyAdvice]:
        return [attrs.evolve(advice, text=" ") for advice in super().suggest(task, portfolio, usual)]


@caught_by("check_usual_without_history")
class SureOfTheUsual(right.ReferenceStrategist):
    def suggest(self, task: Any, portfolio: Any, usual: Any) -> list[StrategyAdvice]:
        found = super().suggest(task, portfolio, usual)
        return [advice if advice.evidence else attrs.evolve(advice, evidence=3) for advice in found]


@caught_by("check_recommends_what_was_better")
class StaysWithTheUsual(right.ReferenceStrategist):
    def suggest(self, task: Any, portfolio: Any, usual: Any) -> list[StrategyAdvice]:
        return [attrs.evolve(a, strategy=a.usual) for a in super().suggest(task, portfolio, usual)]


@caught_by("check_not_by_name")
class ByName(right.ReferenceStrategist):
    def suggest(self, task: Any, portfolio: Any, usual: Any) -> list[StrategyAdvice]:
        found = super().suggest(task, portfolio, usual)
        return [attrs.evolve(a, evidence=a.evidence + len(task.task_id)) if a.evidence else a for a in found]


@caught_by("check_leaves_out_what_it_cannot_read")
class CountsAll(right.ReferenceStrategist):
    def suggest(self, task: Any, portfolio: Any, usual: Any) -> list[StrategyAdvice]:
        count, found = len(list(self.context.past("transfers"))), super().suggest(task, portfolio, usual)
        return [attrs.evolve(a, evidence=count) if a.evidence else a for a in found]


def the_usual(history: list[Any], usual: dict[str, str]) -> list[str]:
    return list(usual.values())


@caught_by("check_agrees_with_twin", twin=the_usual)
class StrategistUnlikeItsTwin(right.ReferenceStrategist):
    pass


# Executors


@caught_by("check_results_and_exceptions_come_back")
class OwnException(right.ReferenceExecutor):
    def submit(self, job: Job) -> Any:
        future = run_now(job)
        if future.exception():
            future = run_now(Job(_fail))
        return future


def _fail() -> None:
    raise RuntimeError("a worker failed")


@caught_by("check_capacity")
class NoCapacity(right.ReferenceExecutor):
    def capacity(self) -> int:
        return 0


@caught_by("check_shutdown")
class StopsOnce(right.ReferenceExecutor):
    stopped: bool = state(False)

    def shutdown(self) -> None:
        if self.stopped:
            raise RuntimeError("stopped already")
        self.stopped = True


@caught_by("check_shutdown")
class LeavesJobsOpen(right.ReferenceExecutor):
    """What takes time it never does."""

    def submit(self, job: Job) -> Any:
        return Future() if job.function is wait_a_little else super().submit(job)


@caught_by("check_results_and_exceptions_come_back")
class TakesAnExitForAResult(right.ReferenceExecutor):
    def submit(self, job: Job) -> Any:
        future = super().submit(job)
        if str(future.exception()).endswith("called sys.exit(0)"):
            future = Future()
            future.set_result(None)
        return future


@caught_by("check_works_outside_a_run")
class ExecutorNeedsARun(right.ReferenceExecutor):
    def submit(self, job: Job) -> Any:
        self.context.log.debug(job.label)  # type: ignore[attr-defined]
        return super().submit(job)


# Stores


class Opens(right.ReferenceStore):
    """Opens another store."""

    store: ClassVar[Any] = SqlStore

    def open(self, url: str, weights: Path | None) -> Store:
        return self.store(url, weights)


@caught_by("check_get_what_was_put")
class LosesWhatPluginsPut(Opens):
    class store(SqlStore):
        def get(self, kind: str, key: str) -> Remembered | None:
            return None if "plugin" in kind else super().get(kind, key)


@caught_by("check_entry_kept_unless_replaced")
class AlwaysReplaces(Opens):
    class store(SqlStore):
        def put(self, *args: Any, replace: bool = False, **rest: Any) -> None:
            super().put(*args, replace=True, **rest)


@caught_by("check_entries_in_order")
class NewestFirst(Opens):
    class store(SqlStore):
        def entries(self, kind: str) -> Iterator[Any]:
            return reversed(list(super().entries(kind)))


@caught_by("check_kept_after_closing")
class ForgetsAtTheEnd(Opens):
    class store(SqlStore):
        def close(self) -> None:
            for key, _ in list(self.entries("models")):
                self.delete("models", key)
            super().close()


@caught_by("check_threads")
class OneThreadOnly(Opens):
    class store(SqlStore):
        def put(self, *args: Any, **rest: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("this store belongs to another thread")
            super().put(*args, **rest)


@caught_by("check_claims")
class LetsEverybodyClaim(Opens):
    class store(SqlStore):
        def claim(self, kind: str, key: str, holder: Holder) -> Holder | None:
            super().claim(kind, key, holder)
            return None


@caught_by("check_unknown_kind_refused")
class AnyKind(Opens):
    class store(SqlStore):
        def put(self, kind: str, *args: Any, **rest: Any) -> None:
            super().put("tasks" if "such" in kind else kind, *args, **rest)


# Observers


@caught_by("check_listens")
class HearsNothing(Observer):
    """Deaf."""


@caught_by("check_told_by_a_run")
class TalksBack(right.ReferenceObserver):
    def run_started(self, record: Any) -> Any:
        return record.run_id


@caught_by("check_any_part_of_a_run")
class NeedsTheStart(right.ReferenceObserver):
    open: dict[str, int] = state(factory=dict)

    def stage_started(self, stage: str, total: int | None) -> None:
        self.open = {**self.open, stage: 0}

    def stage_finished(self, stage: str, result: Any) -> None:
        rest = dict(self.open)
        rest.pop(stage)
        self.open = rest


@caught_by("check_failure_is_only_heard")
class ReraisesFailure(right.ReferenceObserver):
    def run_finished(self, record: Any, error: BaseException | None) -> None:
        if error is not None:
            raise RuntimeError("the run failed") from error


# Wrappers


@caught_by("check_wraps_known_hooks")
class WrapsNothing(Wrapper):
    """Idle."""


@caught_by("check_contract_kept")
class TakesTheNamesAway(right.ReferenceWrapper):
    @hookimpl(wrapper=True)
    def discover(self, portfolio: Any, graph: Any) -> Any:
        return [attrs.evolve(edge, found_by="") for edge in (yield)]


# Balancers


class Plain(right.ReferenceBalancer):
    """The mean, without claims."""

    capabilities: ClassVar[frozenset[str]] = NONE


@caught_by("check_answers_weights_or_a_direction")
class ScalarDirection(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return Direction(weights=super().balance(losses, gradients), vector=torch.zeros((), dtype=losses.dtype))


@caught_by("check_updates_are_finite")
class BreaksDown(Plain):
    count: int = state(0)

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        self.count += 1
        if self.count == 3 and len(losses) == 9:
            return Direction(vector=torch.full_like(gradients.matrix[0], math.inf))
        return super().balance(losses, gradients)


@caught_by("check_keeps_dtype_and_device")
class AlwaysDouble(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return Direction(vector=gradients.matrix.mean(dim=0).double())


@caught_by("check_single_precision_agrees")
class OtherwiseInSingle(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return super().balance(losses, gradients) * (1.1 if losses.dtype == torch.float32 else 1)


@caught_by("check_zero_gradients")
class DividesByLength(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return 1 / gradients.matrix.norm(dim=1)


@caught_by("check_one_task")
class UphillAlone(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return super().balance(losses, gradients) * (-1 if len(losses) == 1 else 1)


@caught_by("check_state_by_name")
class RemembersPlaces(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_losses"})
    known: list[float] = state(factory=list)

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        before, self.known = self.known, losses.tolist()
        return losses / losses.new_tensor(before) if len(before) == len(losses) else torch.ones_like(losses)


@caught_by("check_absent_tasks_keep_their_state")
class ForgetsTheAbsent(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"needs_losses"})
    known: dict[str, float] = state(factory=dict)

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        before, self.known = self.known, dict(zip(gradients.names, losses.tolist(), strict=True))
        return losses / losses.new_tensor([before.get(n, loss) for n, loss in self.known.items()])


@caught_by("check_backward_agrees_with_combine")
class CombinesOtherwise(Plain):
    def combine(self, gradients: Tensor) -> Tensor:
        return gradients.sum(dim=0)


class Forgetting(Plain):
    """Takes gradients away before it adds its own."""

    def backward(self, losses: Any, shared: Any = None, *rest: Any, **named: Any) -> Tensor:  # type: ignore[misc]
        for parameter in shared:
            parameter.grad = None
        return super().backward(losses, shared, *rest, **named)


@caught_by("check_backward_leaves_other_gradients")
class ForgetsGradients(Forgetting):
    pass


@caught_by("check_number_of_tasks_may_change")
class FixedNumber(Plain):
    kept: Tensor | None = state()

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        weights = super().balance(losses, gradients)
        self.kept = weights if self.kept is None else (self.kept + weights) / 2
        return self.kept


@caught_by("check_nan_is_not_hidden")
class HidesNan(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return Direction(vector=gradients.matrix.nan_to_num().mean(dim=0))


def weights_by_length(losses: Tensor, gradients: Any) -> Tensor:
    return 1 / (1 + gradients.matrix.norm(dim=1))


@caught_by("check_permutation_invariant")
class FirstCountsMore(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant"})

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        weights = super().balance(losses, gradients)
        weights[0] *= 2
        return weights


@caught_by("check_scale_equivariant")
class LengthCounts(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"scale_equivariant"})

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return weights_by_length(losses, gradients)


@caught_by("check_linear_under_scaling")
class LengthCountsToo(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"linear_under_scaling"})

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return weights_by_length(losses, gradients)


@caught_by("check_non_conflicting")
class MeanConflicts(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"non_conflicting"})


@caught_by("check_convex_weights")
class SumNotMean(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"convex_weights"})

    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return torch.ones_like(losses)


@caught_by("check_seed_matters_only_if_claimed")
class DrawsUnannounced(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        draws = torch.rand(len(losses), generator=self.context.generator("weights"), dtype=torch.float64)
        return draws.to(losses)


@caught_by("check_seed_matters_only_if_claimed")
class DrawsNothingAtAll(Plain):
    capabilities: ClassVar[frozenset[str]] = frozenset({"stochastic"})


@caught_by("check_losses_matter_only_if_claimed")
class LooksAtLosses(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return losses.clone()


@caught_by("check_agrees_with_twin", twin=lambda gradients: gradients.sum(dim=0))
class BalancerUnlikeItsTwin(Plain):
    pass


# On a GPU: each brings its answer back to the CPU. Without one they pass, because the check is skipped.


@caught_by("check_cuda")
class TransferLeavesTheGpu(right.ReferenceTransfer):
    def learn(self, model: Any, source: Any, task: Any, budget: Any, generator: Any) -> History:
        history = super().learn(model, source, task, budget, generator)
        model.cpu()
        return history


@caught_by("check_cuda")
class SynthesisLeavesTheGpu(right.ReferenceSynthesizer):
    def synthesize(self, new_task: Any, sources: Any, graph: Any, inputs: Any) -> nn.Module:
        return Changed(super().synthesize(new_task, sources, graph, inputs), lambda out: out.cpu())


@caught_by("check_cuda")
class DistilsOnTheCpuOnly(right.ReferenceDistiller):
    def distill(self, tasks: Any, samples: Any) -> Distilled:
        samples.numpy()
        return super().distill(tasks, samples)


@caught_by("check_cuda")
class UpdateLeavesTheGpu(Plain):
    def balance(self, losses: Tensor, gradients: Any) -> Any:
        return Direction(vector=gradients.matrix.mean(dim=0).cpu())


for _cls in (NearestMean, Opens, Plain):
    _cls.__doc__ = _cls.__doc__ or ""


# Adapters


class Handle(AdapterHandle):
    """The reference's handle; each wrong one has one method otherwise."""

    def __init__(self, real: right.BiasHandle) -> None:
        self.real, self.model = real, real.model

    @property
    def others(self) -> int:
        """How many more adapters are on the model."""
        return len(next(iter(self.real.layers.values())).__dict__["_bias_handles"]) - 1

    def parameters(self) -> Any:
        return self.real.parameters()

    def enable(self) -> None:
        self.real.enable()

    def disable(self) -> None:
        self.real.disable()

    def state(self) -> Any:
        return self.real.state()

    def load_state(self, state: Any) -> None:
        self.real.load_state(state)

    def detach(self) -> None:
        self.real.detach()

    def merge(self) -> None:
        self.real.merge()

    def unmerge(self) -> None:
        self.real.unmerge()

    def absorb(self) -> None:
        self.real.absorb()


def handled_by(check: str) -> Any:
    """Puts the reference adapter with handles of this class into the table, and that adapter in the class's place."""

    def note(handle: type[Handle]) -> type[Component]:
        def attach(self: Any, model: Any, targets: Any, generator: Any) -> Any:
            return handle(right.ReferenceAdapter().attach(model, targets, generator))

        members = {"attach": attach, "__module__": __name__}
        return caught_by(check)(type(handle.__name__, (right.ReferenceAdapter,), members))

    return note


@torch.no_grad()
def spoil(tensor: Tensor) -> None:
    tensor.add_(0.01)


@handled_by("check_base_is_frozen")
class LeavesOneTrainable(Handle):
    def __init__(self, real: right.BiasHandle) -> None:
        super().__init__(real)
        self.model.norm.weight.requires_grad_(True)


@handled_by("check_first_gradient")
class HasAnIdlePart(Handle):
    def without_gradient(self) -> list[str]:
        return [*super().without_gradient(), "idle"]


@handled_by("check_training_leaves_the_base")
class WearsTheBaseOut(Handle):
    def detach(self) -> None:
        trained = any(p.grad is not None for p in self.parameters())
        super().detach()
        if trained:
            spoil(self.model.stem.bias)


@handled_by("check_disable_is_exact")
class WeakerEachTime(Handle):
    @torch.no_grad()
    def enable(self) -> None:
        super().enable()
        for p in self.parameters():
            p.mul_(1 - 1e-6)


@handled_by("check_state_round_trip")
class LoadsNothing(Handle):
    def load_state(self, state: Any) -> None:
        before = {name: tensor.clone() for name, tensor in self.state().items()}
        super().load_state(state)
        super().load_state(before)


@handled_by("check_wrong_state_refused")
class TakesWhatItKnows(Handle):
    def load_state(self, state: Any) -> None:
        super().load_state({name: tensor for name, tensor in state.items() if name in self.state()})


@caught_by("check_targets")
class IgnoresTargets(right.ReferenceAdapter):
    def attach(self, model: Any, targets: Any, generator: Any) -> Any:
        return super().attach(model, [], generator)


@handled_by("check_several_at_once")
class DisturbsTheOther(Handle):
    def detach(self) -> None:
        others = self.others
        super().detach()
        if others:
            spoil(self.model.stem.bias)


@handled_by("check_mixed_batch")
class FirstForAll(Handle):
    @contextlib.contextmanager
    def mix(self, handles: Any, choice: Tensor) -> Any:
        for number, handle in enumerate(handles):
            if number == 0:
                handle.enable()
            else:
                handle.disable()
        yield


@handled_by("check_merge")
class MergesNothing(Handle):
    def merge(self) -> None:
        return


@caught_by("check_merge_refused")
class ClaimsNothing(right.ReferenceAdapter):
    capabilities: ClassVar[frozenset[str]] = NONE


@handled_by("check_absorb")
class StaysFrozen(Handle):
    def absorb(self) -> None:
        super().absorb()
        self.model.requires_grad_(False)


@caught_by("check_computed_weights")
class KnowsParametersOnly(right.ReferenceAdapter):
    def attach(self, model: Any, targets: Any, generator: Any) -> Any:
        assert len(model.body[0]._parameters["weight"])
        return super().attach(model, targets, generator)


def by_place(layer: nn.Module, inputs: Any) -> None:
    assert len(inputs[0])


@caught_by("check_calls_by_keyword")
class WantsInputsByPlace(right.ReferenceAdapter):
    def attach(self, model: Any, targets: Any, generator: Any) -> Any:
        model.head.register_forward_pre_hook(by_place)
        return super().attach(model, targets, generator)


class AtHome(right.BiasHandle):
    """Acts only at the very layers that it was made for."""

    def __init__(self, model: nn.Module, names: Any) -> None:
        super().__init__(model, names)
        self.home = {id(layer) for layer in self.layers.values()}

    def shift_of(self, layer: nn.Module) -> Tensor | None:
        return super().shift_of(layer) if id(layer) in self.home else None


@caught_by("check_copies")
class NotInCopies(right.ReferenceAdapter):
    def attach(self, model: Any, targets: Any, generator: Any) -> Any:
        handle = super().attach(model, targets, generator)
        names = list(handle.layers)
        handle.detach()
        return AtHome(model, names)


class Moved(right.ReferenceAdapter):
    """What it trains is otherwise: of another kind, or elsewhere."""

    def attach(self, model: Any, targets: Any, generator: Any) -> Any:
        handle = super().attach(model, targets, generator)
        for layer in handle.layers.values():
            layer._parameters[handle.own] = nn.Parameter(self.moved(layer._parameters[handle.own].detach()))
        return handle

    def moved(self, shift: Tensor) -> Tensor:
        return shift


@caught_by("check_float64")
class SinglePrecision(Moved):
    def moved(self, shift: Tensor) -> Tensor:
        return shift.float() if shift.dtype == torch.float64 else shift


@caught_by("check_cuda")
class StaysOnTheCpu(Moved):
    def moved(self, shift: Tensor) -> Tensor:
        return shift.cpu()


def heavier_twin(model: Any, targets: Any, generator: Any) -> Any:
    with torch.no_grad():
        model.head.bias.add_(1.0)
    return right.ReferenceAdapter().attach(model, targets, generator)


@caught_by("check_agrees_with_twin", twin=heavier_twin)
class AnotherThanItsTwin(right.ReferenceAdapter):
    pass


# Stages


def counted(stage: Any, engine: Any, **changes: Any) -> Outcome:
    """What the reference stage comes to, with another record or other artifacts."""
    done = right.ReferenceStage.work(stage, engine)
    return attrs.evolve(done, **changes)


@caught_by("check_wrappers_see_it")
class MindsWrappers(right.ReferenceStage):
    def work(self, engine: Any) -> Outcome:
        return counted(self, engine, record=right.Counted(tasks=len(engine.run.wrapping())))


@caught_by("check_result_is_a_record")
class ResultIsADict(right.ReferenceStage):
    Result: ClassVar[type] = dict

    def work(self, engine: Any) -> Outcome:
        return counted(self, engine, record={"tasks": 1})

    @classmethod
    def summary(cls, result: Any) -> dict[str, Any]:
        return dict(result)

    @classmethod
    def sections(cls, result: Any, graph: Any) -> list[Section]:
        return []


@record
class Widening:
    """Is not read as it is written."""

    tasks: Any = attrs.field(default=0, converter=lambda value: value + 1)


@caught_by("check_result_is_a_record")
class ResultGrows(ResultIsADict):
    Result: ClassVar[type] = Widening
    keeps: ClassVar[bool] = False

    def work(self, engine: Any) -> Outcome:
        return counted(self, engine, record=Widening(tasks=1))

    @classmethod
    def summary(cls, result: Any) -> dict[str, Any]:
        return {}


@caught_by("check_provides_what_it_says")
class GivesAnotherKind(right.ReferenceStage):
    def work(self, engine: Any) -> Outcome:
        return counted(self, engine, artifacts={"drawn": [0.5, 0.25]})


@caught_by("check_tells_its_progress")
class NeverEnds(right.ReferenceStage):
    def work(self, engine: Any) -> Outcome:
        self.context.tell("stage_started", stage="counting", total=None)
        return counted(self, engine)


@caught_by("check_resumes")
class CountsItsWorks(right.ReferenceStage):
    keeps: ClassVar[bool] = False

    def work(self, engine: Any) -> Outcome:
        before = self.context.recall("counts", "works")
        self.context.remember("counts", "works", 1)
        return counted(self, engine, record=right.Counted(tasks=9 if before else 1))


@caught_by("check_shown")
class RowsOfObjects(right.ReferenceStage):
    @classmethod
    def summary(cls, result: Any) -> dict[str, Any]:
        return {3: result.tasks}  # type: ignore[dict-item]


@caught_by("check_shown")
class SectionsOfText(right.ReferenceStage):
    @classmethod
    def sections(cls, result: Any, graph: Any) -> Any:
        return ["<p>text</p>"]


@caught_by("check_shown")
class EmptySection(right.ReferenceStage):
    @classmethod
    def sections(cls, result: Any, graph: Any) -> list[Section]:
        return [Section("Counted", " ")]


@caught_by("check_check_changes_nothing")
class WritesDownWhatItChecked(right.ReferenceStage):
    def check(self, portfolio: Any) -> None:
        super().check(portfolio)
        for task in portfolio:
            task.record("checked", 1.0)


@caught_by("check_refuses_no_tasks")
class NeedsTasks(right.ReferenceStage):
    def check(self, portfolio: Any) -> None:
        """Whatever they are."""

    def work(self, engine: Any) -> Outcome:
        assert engine.portfolio.ids[0]
        return counted(self, engine)


@caught_by("check_references_are_checked")
class AnyReferenceWillDo(right.ReferenceStage):
    model: Any = attrs.field(
        default=None, converter=lambda value: value, metadata={"help": "a network", "reference": nn.Module}
    )


test_right, test_wrong, test_every_check_of_a_point_has_a_wrong_component = wrong.tests()


def test_every_check_of_every_component_has_a_wrong_one() -> None:
    general = {name for name in vars(Kit) if name.startswith("check_")}
    packages = {"check_manifest_is_light", "check_manifest_offers_the_component"}  # shown by packages, below
    assert general - {check for check, _, _ in wrong.wrong} == packages


# Manifests, each in a package of its own

GOOD = """
    from crosstask.manifest import Extension, Plugin

    FOUND = Extension("discovery", "x", "{package}.code:Found", summary="Finds", source="")
    PLUGIN = Plugin("{name}", [FOUND], api=(2, 0))
"""
CODE = """
    from crosstask.options import component
    from crosstask.testing.references import ReferenceDiscoverer

    @component
    class Found(ReferenceDiscoverer):
        '''Finds.'''
"""
MANIFESTS = {
    "heavy": ("check_manifest_is_light", "import torch" + GOOD, "imports"),
    "loud": ("check_manifest_is_light", "print('hello')" + GOOD, "prints 'hello"),
    "slow": ("check_manifest_is_light", "sum(i * i for i in range(20_000_000))" + GOOD, "s of CPU time"),
    "foreign": ("check_manifest_offers_the_component", GOOD.replace(":Found", ":Other"), "does not offer Found"),
    "wrong_point": ("check_manifest_offers_the_component", GOOD.replace("discovery", "source"), "declared as 'source'"),
    "future": ("check_manifest_offers_the_component", GOOD.replace("(2, 0)", "(9, 0)"), "API (9, 0)"),
    "terse": ("check_manifest_offers_the_component", GOOD.replace('"Finds"', '""'), "no summary"),
    "mistaken": (
        "check_manifest_offers_the_component", GOOD.replace('source=""', 'licence="MIT"'), "unknown field 'licence'",
    ),
    "without_api": ("check_manifest_offers_the_component", GOOD.replace(", api=(2, 0)", ""), "api is missing"),
    "no_plugin": ("check_manifest_offers_the_component", "PLUGIN = 3", "is a int, not a Plugin"),
    "fine": (None, GOOD, ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, text, message = MANIFESTS[kind]
    package = f"crosstask_selftest_{kind}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text("", "utf-8")
    head, _, rest = text.partition("\n") if not text.startswith("\n") else ("", "", text)
    manifest = head + "\n" + textwrap.dedent(rest)
    manifest = manifest.replace("{name}", kind.replace("_", "-")).replace("{package}", package)
    (folder / "plugin.py").write_text(manifest, "utf-8")
    (folder / "code.py").write_text(textwrap.dedent(CODE) + "\nOther = int\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module(f"{package}.code").Found
    failed = {o.name: o.message for o in run_checks(made) if not o.ok}
    assert set(failed) == ({check} if check else set()), failed
    assert check is None or message in failed[check]


# Expected failures, and what is refused


def test_expected_failure_is_not_one_and_strict_ones_must_fail() -> None:
    reason = {"check_says_who_found_it": "old code"}
    found = {o.name: o.status for o in run_checks(Anonymous, expected_failures=reason)}
    assert found["check_says_who_found_it"] == "expected"
    strict = {o.name: o for o in run_checks(right.ReferenceDiscoverer, expected_failures=reason)}
    assert strict["check_says_who_found_it"].status == "unexpected"
    assert "old code" in strict["check_says_who_found_it"].message
    assert not strict["check_says_who_found_it"].ok
    lax = {o.name: o.ok for o in run_checks(right.ReferenceDiscoverer, expected_failures=reason, strict=False)}
    assert all(lax.values())


def test_expected_failures_need_a_known_check_and_a_reason() -> None:
    with pytest.raises(OptionError, match="no check 'check_says_who_found'; did you mean 'check_says_who_found_it'"):
        run_checks(Anonymous, expected_failures={"check_says_who_found": "old code"})
    with pytest.raises(OptionError, match="'check_says_who_found_it' needs a reason, got ' '"):
        conformance(Anonymous, expected_failures={"check_says_who_found_it": " "})


def test_only_components_can_be_checked() -> None:
    with pytest.raises(PluginError, match="is not a component; derive it from the contract of an extension point"):
        run_checks(int)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="says it is a 'balancer' but does not derive from Balancer"):
        run_checks(type("X", (Component,), {"point": "balancer"}))


def test_unclaimed_capabilities_and_a_missing_twin_make_no_checks() -> None:
    names = {c.name for c in checks_of(Plain)}
    assert "check_convex_weights" not in names
    assert "check_agrees_with_twin" not in names
    assert "check_convex_weights" in {c.name for c in checks_of(right.ReferenceBalancer)}
    assert "check_agrees_with_twin" in {c.name for c in checks_of(Plain, twin=lambda gradients: gradients.mean(dim=0))}


@pytest.mark.parametrize("reference", right.REFERENCES.values(), ids=lambda r: r.point)
def test_checks_say_what_they_check(reference: type[Component]) -> None:
    for check in checks_of(reference, twin=lambda: None):
        assert check.summary.endswith((".", "none."))
        assert check.name.startswith("check_")


def test_with_pytest_each_check_is_a_named_test(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            import attrs
            from crosstask.options import component
            from crosstask.testing import conformance
            from crosstask.testing.references import ReferenceDiscoverer

            @component
            class Anonymous(ReferenceDiscoverer):
                '''Wrong.'''
                def discover(self, portfolio, graph):
                    return [attrs.evolve(edge, found_by="") for edge in super().discover(portfolio, graph)]

            test_right = conformance(ReferenceDiscoverer)
            test_wrong = conformance(Anonymous)
            test_known = conformance(Anonymous, expected_failures={"check_says_who_found_it": "says nothing"})
            test_strict = conformance(ReferenceDiscoverer, expected_failures={"check_runs": "not so"})
            test_lax = conformance(ReferenceDiscoverer, expected_failures={"check_runs": "not so"}, strict=False)

            def test_other(small_portfolio):
                assert small_portfolio["moons"].model is not None
            """
        ),
        "utf-8",
    )
    command = [sys.executable, "-m", "pytest", "--strict-markers", "-rA", "-q"]
    plugin = "crosstask.testing.pytest_plugin"
    if not any(entry.value == plugin for entry in entry_points(group="pytest11")):  # else pytest has it already
        command += ["-p", plugin]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-o", "addopts=", "test_mine.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    failed = sorted(line.split(" - ")[0] for line in lines if line.startswith("FAILED"))
    assert failed == [
        "FAILED test_mine.py::test_strict[check_runs]",
        "FAILED test_mine.py::test_wrong[check_says_who_found_it]",
    ], done.stdout + done.stderr
    assert "PASSED test_mine.py::test_right[check_returns_edges]" in lines
    assert "PASSED test_mine.py::test_other" in lines
    assert any("test_known[check_says_who_found_it] - says nothing" in line for line in lines)
    assert any(line.startswith("XPASS test_mine.py::test_lax[check_runs]") for line in lines)
    assert "CheckFailure: discovery Anonymous" in done.stdout


def test_pytest_plugin_is_light() -> None:
    code = "import sys, crosstask.testing.pytest_plugin; print({'torch', 'numpy', 'networkx'} & set(sys.modules))"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Points of plugins, and wrappers of their hooks


def test_a_component_of_a_plugins_point_is_checked_with_its_kit() -> None:
    """The kit comes from the registry that is given, from what is installed, or by hand."""
    names = {check.name for check in checks_of(First, registry=with_fakes())}
    assert {"check_at_most", "check_keeps_order", "check_documented"} <= names
    assert {check.name for check in checks_of(First, kit=ChooserKit)} == names
    with pytest.raises(PluginError, match="unknown extension point 'chooser'"):
        checks_of(First)


def test_a_point_without_a_kit_and_one_whose_kit_is_none_say_so() -> None:
    for kit, said in (
        ("", "extension point 'chooser' has no conformance kit; give one with kit="),
        ("crosstask_fakes.kit:Lost", "kit of extension point 'chooser': crosstask_fakes.kit has no 'Lost'"),
        ("crosstask_fakes.contracts:Chooser", "crosstask_fakes.contracts:Chooser is not a crosstask.testing.kit.Kit"),
    ):
        registry = Registry()
        point = Point("chooser", "crosstask_fakes.contracts:Chooser", kit=kit)
        registry.register(Plugin("x", points=[point], api=(2, 0)))
        with pytest.raises(PluginError, match=said):
            checks_of(First, registry=registry)


own = SelfTest(First, registry=with_fakes())


@own.caught_by("check_at_most")
class Everything(First):
    capabilities: ClassVar[frozenset[str]] = NONE

    def choose(self, tasks: list[str], most: int) -> list[str]:
        return everything(tasks, 99)


@own.caught_by("check_keeps_order")
class ClaimsOrder(First):
    def choose(self, tasks: list[str], most: int) -> list[str]:
        return tasks[most - 1 :: -1]


test_right_choosers, test_wrong_choosers, test_every_check_of_choosers_has_a_wrong_one = own.tests()


def test_a_self_test_finds_what_is_missing_and_what_is_not_caught() -> None:
    bare = SelfTest(First, registry=with_fakes())
    missing = r"no wrong component for \['check_at_most', 'check_keeps_order'\] of chooser"
    with pytest.raises(AssertionError, match=missing):
        bare.tests()[2]()
    right_one = type("Fine", (First,), {"__module__": __name__, "__doc__": "Right."})
    bare.add("check_at_most", component(right_one))
    _, test_wrong_one, _ = bare.tests()
    with pytest.raises(AssertionError):
        test_wrong_one("check_at_most", *bare.wrong[0][1:])


CHOOSERS = Plugin(
    "reference-choosers",
    [Extension("chooser", "reference", "crosstask_fakes.choosers:First", summary="For checks.")],
    points=[Point("chooser", "crosstask_fakes.contracts:Chooser", kit="crosstask_fakes.kit:ChooserKit")],
    api=(2, 0),
)


@component
class Polite(Wrapper):
    """Passes on what choosers say."""

    @wraps("chooser.choose")
    def pass_on(self, tasks: list[str]) -> Any:
        return (yield)


@component
class Greedy(Wrapper):
    """Gives more than may be chosen, and only where one is called so."""

    only: ClassVar[str | None] = "greedy"

    @wraps("chooser.choose")
    def take(self, tasks: list[str]) -> Any:
        return sorted([*(yield), "d", "e"])


def test_a_wrapper_of_a_plugins_hook_is_checked_around_that_points_reference() -> None:
    registry = reference_registry(CHOOSERS)
    for where in (registry, with_fakes()):  # without a reference: around the default component
        assert [o.message for o in run_checks(Polite, registry=where) if not o.ok] == []
    failed = {o.name: o.message for o in run_checks(Greedy, registry=registry) if not o.ok}
    assert set(failed) == {"check_contract_kept"}
    assert "inside wrapper Greedy, a chooser fails check_at_most" in failed["check_contract_kept"]


def test_the_reference_registry_offers_references_under_other_names_too() -> None:
    registry = reference_registry(CHOOSERS, lp_ft="transfer")
    assert registry.create("transfer", "lp_ft").name == "lp_ft"
    assert registry.default("transfer") == "reference"
    assert registry.contract("chooser") is Chooser
    assert registry.create("chooser", "reference").name == "reference"


def test_bases_are_looked_for_again_when_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a contributed point asks who brings the point: looking takes longer than most checks."""
    asked: list[Any] = []
    real = Registry.installed

    def installed(cls: type[Registry], settings: Any = None) -> Registry:
        asked.append(settings)
        return real(settings)

    monkeypatch.setattr(Registry, "installed", classmethod(installed))
    kit = ChooserKit(Subject(component=First))

    def bring(name: str) -> None:
        (tmp_path / f"{name}.py").write_text(
            f"from crosstask import Plugin, Point\n"
            f"POINT = Point({name!r}, '{name}:Contract')\nPLUGIN = Plugin({name!r}, api=(2, 0), points=(POINT,))\n"
        )
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n\n")
        (info / "entry_points.txt").write_text(f"[crosstask.plugins]\n{name} = {name}:PLUGIN\n")

    def brought() -> list[str]:
        return [record.name for record in kit.registry().records if record.name.startswith("brings")]

    monkeypatch.syspath_prepend(str(tmp_path))
    bring("brings_one")
    assert brought() == ["brings_one"]
    assert brought() == ["brings_one"]
    assert len(asked) == 1
    next(record for record in kit.registry().records if record.name == "brings_one").fail(Status.BROKEN, "spoilt")
    assert [r.reason for r in kit.registry().records if r.name == "brings_one"] == [""], "each has records of its own"
    bring("brings_two")
    assert sorted(brought()) == ["brings_one", "brings_two"]
    monkeypatch.setenv("CROSSTASK_DENY", "brings_one")
    assert brought() == ["brings_two"]
    assert len(asked) == 3
