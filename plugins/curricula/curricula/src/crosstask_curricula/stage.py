"""The stage `curriculum`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import networkx as nx

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.showing import times
from crosstask.tasks import Portfolio
from crosstask_curricula.records import CurriculumComparison
from crosstask_transfer.attribution import attribute_layers
from crosstask_transfer.stage import carried_by


@component
class Curriculum(Stage):
    """A path of tasks to a target, each learned from what is kept of those before, beside training from scratch and
    transfer from the best single source. Each uses the recipe's transfer method. A step that does not help the target
    on its validation data is undone, unless `gate` is false.
    """

    Result: ClassVar[type] = CurriculumComparison
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    provides: ClassVar[Mapping[str, Any]] = {"order": tuple[str, ...]}
    needs_models: ClassVar[bool] = True
    results_version: ClassVar[int] = 3  # steps are judged by the target and undone where they do not help it

    target: str = option(help="the task to reach")
    planner: Part = part("curriculum", help="which order; it may change it by what the steps gain")
    max_tasks: int = option(4, ge=1, help="tasks on the path, the target among them")
    gate: bool = option(True, help="judge every step by the target's validation data, and undo what does not help")
    explain: bool = option(False, help="which layers carry the transfer from the best single source")

    def check(self, portfolio: Portfolio) -> None:
        """The target can be learned, and what must be learned before it fits into the path."""
        try:
            goal = portfolio[self.target]
        except DataError as error:
            raise RecipeError(f"target: {error}") from None
        if self.target not in portfolio:
            raise RecipeError(f"target: task {self.target!r} is held back as unseen: it is not learned from")
        for split, called in (("train", "training"), ("test", "test")):
            if not goal.has_data(split):
                raise RecipeError(f"target: task {self.target!r} has no {called} data")
        needed = nx.ancestors(portfolio.prerequisite_graph(), self.target)
        if len(needed) + 1 > self.max_tasks:
            raise RecipeError(
                f"max_tasks: {self.target!r} needs {len(needed)} prerequisites ({', '.join(sorted(needed))}): it must "
                f"be at least {len(needed) + 1}, got {self.max_tasks}"
            )

    def work(self, engine: Engine) -> Outcome:
        (planner,), method = self.made_of("planner"), engine.method()
        plan = engine.generate_curriculum(self.target, planner, self.max_tasks)
        done = engine.run_curriculum(plan, method, planner=planner, gate=self.gate)
        baselines, transfers = {"from scratch": done.steps[-1].scratch_score}, []
        best = self._best_source(engine)
        if best is not None and engine.portfolio[best.source].has_data():
            single = engine.transfer_knowledge(best.source, self.target, method, samples=True)
            told = "best single source" if best.measured else "source predicted to be the best"
            baselines[f"{told}: {single.source}"] = single.score
            transfers.append(single)
        target = engine.portfolio[self.target]
        explained = [
            attribute_layers(method, engine.portfolio[single.source], target, single)
            for single in transfers
            if self.explain
        ]
        found = CurriculumComparison(
            curriculum=done,
            baselines=baselines,
            transfers=tuple(transfers),
            attributions=tuple(explained),
            source_measured=best is not None and best.measured,
        )
        return Outcome(found, {"order": done.curriculum.task_sequence})

    def _best_source(self, engine: Engine) -> TransferEdge | None:
        """The source that helps most of those that were measured to; where none was, of those that are estimated or
        predicted to.
        """
        into = [e for e in engine.graph.told_edges(guessed=True) if e.target == self.target]
        helping = [e for e in into if e.transfer_coefficient > 0]
        helping = [e for e in helping if e.measured] or helping
        return min(helping, key=lambda e: (-e.transfer_coefficient, e.source), default=None)

    @classmethod
    def summary(cls, result: CurriculumComparison) -> dict[str, Any]:
        plan, last = result.curriculum.curriculum, result.curriculum.steps[-1]
        rows: dict[str, Any] = {
            "target": plan.target,
            "curriculum": " → ".join(plan.task_sequence),
            "target_with_curriculum": last.score,
            "target_from_scratch": last.scratch_score,
            "curriculum_gain": last.gain,
            "target_by_chance": last.chance,
        }
        if result.curriculum.reached_from:
            rows["curriculum_kept"] = result.curriculum.reached_from
        if result.curriculum.as_expected is not None:
            expected = plan.expected_interval
            rows["expected_of_curriculum"] = expected
            rows["as_expected"] = result.curriculum.as_expected
        if last.learned_nothing:
            rows["nothing_learned"] = "the target's score is no better than always giving the most frequent answer"
        for single in result.transfers[:1]:
            name = "best_source" if result.source_measured else "source_predicted_to_be_best"
            rows |= {name: single.source, f"target_from_{name}": single.score, f"{name}_gain": single.performance_gain}
            if single.certain:  # beside a gain that may be none, these ratios say nothing
                speed = single.convergence_speed_gain, single.speed_capped, single.convergence_speed_interval
                rows["convergence_speed_gain"] = times(*speed)
                rows["sample_efficiency_gain"] = times(single.sample_efficiency_gain, single.sample_efficiency_capped)
        for found in result.attributions:
            rows["carried_by"] = carried_by(found)
        return rows

    @classmethod
    def sections(cls, result: CurriculumComparison, graph: TransferGraph) -> list[Section]:
        from crosstask_curricula.report import curriculum, learning_curves  # deferred: they import plotly
        from crosstask_transfer.report import why_it_transferred

        return [*curriculum(result), *learning_curves(result), *why_it_transferred(result.attributions)]
