"""The stage `lifelong`: tasks arrive one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from crosstask.errors import DataError, RecipeError, nearest
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.options import component, option, state
from crosstask.parts import Choice, Part, part
from crosstask.points.discovery import Discoverer
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Interval
from crosstask.tasks import Portfolio
from crosstask_lifelong.beliefs import Pair, expected, within
from crosstask_lifelong.records import Arrival, LifelongResult

MOST = 300
"""Measurements from which is learned what to expect."""


@component
class Lifelong(Stage):
    """Lets tasks arrive one by one. Each is learned from the source that is best for it among few that are tried, and
    then is itself known: with n tasks, at most `per_task` * n pairs are measured and `candidates` * n looked at.

    For each arrival, `candidates` of the tasks known are looked at by `estimators`, without training: half of them
    those that have helped most, half at random. What is expected of each follows from its estimate and from all that
    was tried before (`crosstask_lifelong.beliefs`): how much each source gives, and what estimates are worth, are
    learned on the way. The `per_task` most promising are tried by `probe`, on validation data; the best by what is then
    expected is the source, if that is more than nothing. What it brought is judged by `judge`, on test data, from which
    nothing is decided. All that `probe` measures goes into the graph; pairs that it has measured already are not
    measured again.

    With `compare`, so many sources drawn at random are measured and judged, too (with more than there are tasks all of
    them, which costs n²), and nothing of the choice changes.
    A run that was killed repeats no training: what discoverers measured they remember.
    """

    Result: ClassVar[type] = LifelongResult
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    keeps: ClassVar[bool] = False  # it fills the graph of the engine; what its discoverers measured they remember

    order: tuple[str, ...] = option((), help="tasks in the order in which they arrive (default: that of the source)")
    per_task: int = option(2, ge=1, help="sources that are tried for each arrival, at most")
    candidates: int = option(40, ge=1, help="known tasks that are looked at for each arrival, at most")
    estimators: tuple[Part, ...] = part("discovery", ("mean_z",), help="say without training what a source promises")
    probe: Part = part("discovery", "probe", help="tries the chosen sources")
    judge: Part = part(
        "discovery", Choice(use="probe", options={"split": "test"}), help="says what the choice brought, on test data"
    )
    _scores: dict[tuple[str, str], float] = state(factory=dict)
    compare: int = option(
        0, ge=0, help="measure so many sources drawn at random, too, to say what others would have brought"
    )

    def check(self, portfolio: Portfolio) -> None:
        for task in self.order:
            if task not in portfolio:
                raise RecipeError(f"order: no task {task!r}{nearest(task, portfolio.ids)}")
        if len(set(self.order)) < len(self.order):
            twice = next(task for task in self.order if self.order.count(task) > 1)
            raise RecipeError(f"order: task {twice!r} arrives twice")
        if len(self.order or portfolio.ids) < 2:
            raise RecipeError("two tasks are needed: what arrives first is known when the second does")

    def work(self, engine: Engine) -> Outcome:
        order = self.order or tuple(engine.portfolio.ids)
        self.context.tell("stage_started", stage="lifelong", total=len(order))
        arrivals = []
        self._scores = {}
        for number, task in enumerate(order):
            arrivals.append(self._arrive(engine, order[:number], task))
            source = arrivals[-1].source or "scratch"
            self.context.tell("stage_progress", stage="lifelong", detail=f"{source} -> {task}")
        repeats = getattr(self.made_of("probe")[0], "repeats", None)
        result = LifelongResult(
            arrivals=tuple(arrivals), per_task=self.per_task, repeats=repeats, seed=self.context.seed
        )
        self.context.tell("stage_finished", stage="lifelong", result=result)
        return Outcome(result)

    def _arrive(self, engine: Engine, before: Sequence[str], task: str) -> Arrival:
        """Choose a source for a task, learn from it, then let the task be known."""
        started = time.process_time()
        known = [each for each in before if engine.portfolio[each].model is not None]
        told: dict[str, Any] = {"task": task, "known": len(known)}
        notes: list[str] = []
        probe, judge = (self.made_of(name)[0] for name in ("probe", "judge"))
        tried: tuple[str, ...] = ()
        graph = engine.graph
        if known:
            looked = self._looked_at(graph, known, task)
            for estimator in self.made_of("estimators"):
                for edge in self._found(engine, estimator, looked, task, graph, notes):
                    graph.add(edge)
            scores = within([estimate(graph, source, task) for source in looked])
            self._scores |= {(source, task): score for source, score in zip(looked, scores, strict=True)}
            promise = self._expected(graph, looked, task)
            promising = sorted(looked, key=lambda s: (-promise[s], s))[: self.per_task]
            new = [s for s in promising if _measured(graph, s, task) is None]
            edges = self._found(engine, probe, new, task, graph, notes)
            for edge in edges:
                graph.add(edge)
            tried = tuple(edge.source for edge in edges)
            promise = self._expected(graph, [s for s in promising if s not in new or s in tried], task)
            told["looked_at"] = len(looked)
            best = max(promise, key=lambda s: (promise[s], s), default=None)
            if best is not None and promise[best] > 0:
                told |= {"source": best, "expected": promise[best]}
        trainings = 1 + (len(tried) + bool(tried)) * getattr(probe, "repeats", 1)  # own model, pairs and their controls
        engine.train([task])
        seconds = time.process_time() - started
        source = told.get("source")
        others = self._drawn("compare", known, self.compare, task)
        wanted = [s for s in known if s in others or s == source]
        judged = self._judged(engine, judge, wanted, task, notes)
        if source is not None:  # one that nobody can judge has not brought nothing
            told["gain"] = _gain(judged[source]) if source in judged else None
        if others and judged:
            told |= self._compared(engine, others, task, judged, source, notes)
        return Arrival(**told, tried=tried, trainings=trainings, notes=tuple(notes), seconds=seconds)

    def _looked_at(self, graph: TransferGraph, known: list[str], task: str) -> list[str]:
        """Which of the known tasks are looked at: half of them those of which most is believed, others at random."""
        if len(known) <= self.candidates:
            return known
        promise = self._expected(graph, known, task)
        ranked = sorted(known, key=lambda s: (-promise[s], s))
        kept = ranked[: self.candidates // 2]
        chosen = {*kept, *self._drawn("lifelong", ranked[len(kept) :], self.candidates - len(kept), task)}
        return [source for source in known if source in chosen]

    def _drawn(self, what: str, sources: list[str], count: int, task: str) -> list[str]:
        generator = torch.Generator().manual_seed(self.context.seed_for(what, task))
        return [sources[place] for place in torch.randperm(len(sources), generator=generator)[:count].tolist()]

    def _found(
        self, engine: Engine, discoverer: Discoverer, sources: Sequence[str], task: str, graph: TransferGraph,
        notes: list[str],
    ) -> list[TransferEdge]:  # fmt: skip
        """What a discoverer finds of these sources; nothing where it cannot work on them, and the notes say why."""
        if not sources:
            return []
        view = engine.portfolio.restricted([(source, task) for source in sources])
        try:
            found: list[TransferEdge] = self.context.call(discoverer, "discover", portfolio=view, graph=graph)
        except DataError as error:
            notes.append(str(error))
            return []
        return [edge for edge in found if edge.target == task and edge.source in sources]

    def _expected(self, graph: TransferGraph, sources: Sequence[str], task: str) -> dict[str, float]:
        """What is expected of these sources, by what was measured of this task, and of others: of more than `MOST`
        evenly many, since the work grows with the cube of their number.
        """
        edges = graph.measured_edges()
        others = [edge for edge in edges if edge.target != task]
        kept = [edge for edge in edges if edge.target == task] + others[:: -(-len(others) // MOST) or 1]
        tried = [
            Pair(e.source, e.target, self._score(e.source, e.target), e.transfer_coefficient, e.standard_error)
            for e in kept
        ]
        wanted = [Pair(source, task, self._score(source, task)) for source in sources]
        return dict(zip(sources, expected(tried, wanted), strict=True)) if wanted else {}

    def _score(self, source: str, target: str) -> float:
        return self._scores.get((source, target), 0.0)

    def _judged(
        self, engine: Engine, judge: Discoverer, sources: Sequence[str], task: str, notes: list[str]
    ) -> dict[str, TransferEdge]:
        """What sources bring on test data, in a graph of its own: nothing is decided by it."""
        apart = TransferGraph(each.descriptor for each in engine.portfolio)
        return {edge.source: edge for edge in self._found(engine, judge, sources, task, apart, notes)}

    def _compared(
        self, engine: Engine, others: list[str], task: str, judged: dict[str, TransferEdge], source: str | None,
        notes: list[str],
    ) -> dict[str, Any]:  # fmt: skip
        """What the best source, one at random, and the best of some tried at random bring; of those drawn for it."""
        apart = TransferGraph(each.descriptor for each in engine.portfolio)
        probe = self.made_of("probe")[0]
        valid = {edge.source: edge for edge in self._found(engine, probe, others, task, apart, notes)}
        values = {name: edge.transfer_coefficient for name, edge in judged.items()}
        best = max(values, key=lambda s: (values[s], s))
        own = values.get(source) if source is not None else 0.0
        ranked = sorted((s for s in others if s in judged and s in valid), key=lambda s: -valid[s].transfer_coefficient)
        gains = [_gain(judged[s]).mean if valid[s].transfer_coefficient > 0 else 0.0 for s in ranked]
        random = [_gain(judged[s]).mean for s in others if s in judged]
        return {
            "best": best if values[best] > 0 else None,
            "regret": None if own is None else max(0.0, values[best]) - own,
            "random_gain": sum(random) / len(random) if random else None,
            "tried_gain": best_of_drawn(gains, self.per_task) if gains else None,
        }

    @classmethod
    def summary(cls, result: LifelongResult) -> dict[str, Any]:
        return {
            "arrivals": len(result.arrivals),
            "pairs_tried": result.pairs,
            "mean_gain_over_scratch": result.gain,
            "learned_from_another": sum(each.source is not None for each in result.arrivals),
            "gain_over_one_source_at_random": result.over("random_gain"),
            "gain_over_as_many_tried_at_random": result.over("tried_gain"),
            "regret_to_the_best_source": result.regret,
        }

    @classmethod
    def sections(cls, result: LifelongResult, graph: TransferGraph) -> list[Section]:
        from crosstask_lifelong.report import section  # deferred: plotly is slow to import

        return [section(result)]


def estimate(graph: TransferGraph, source: str, target: str) -> float:
    """The coefficient by what was only estimated or predicted of a pair, the newest of it; 0 without."""
    known = [edge for edge in graph.evidence(source, target) if not edge.measured]
    return known[-1].transfer_coefficient if known else 0.0


def best_of_drawn(values: Sequence[float], count: int) -> float:
    """Expected value of the first in rank among `count` drawn without replacement; `values` are in the order of rank:
    that of rank r (from 0) is the first with probability C(n - 1 - r, count - 1) / C(n, count).
    """
    number = len(values)
    count = min(count, number)
    ways = math.comb(number, count)
    return sum(value * math.comb(number - 1 - rank, count - 1) / ways for rank, value in enumerate(values))


def _measured(graph: TransferGraph, source: str, target: str) -> TransferEdge | None:
    edge = graph.edge(source, target)
    return edge if edge is not None and edge.measured else None


def _gain(edge: TransferEdge) -> Interval:
    """Of the metric; the coefficient where a discoverer does not say."""
    told = edge.accuracy_gain, edge.accuracy_gain_low, edge.accuracy_gain_high
    mean, low, high = told if told[0] is not None else (edge.transfer_coefficient, edge.low, edge.high)
    assert mean is not None
    return Interval(mean=mean, low=mean if low is None else low, high=mean if high is None else high)
