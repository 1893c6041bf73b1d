"""The stage `search`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from crosstask.errors import DataError, OptionError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.options import component, option, structure
from crosstask.parts import Part, Reference, part, reference
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Budget
from crosstask.tasks import Portfolio
from crosstask_search.models import ModelSpace
from crosstask_search.networks import run_model_search
from crosstask_search.records import SearchResult


@component
class NetworkSearch(Stage):
    """The network for a task, and what `models.tune` names of its training: chosen on the validation data, then trained
    anew and judged on the test data beside the recipe's model.

    Networks that were best on related tasks in earlier searches are tried first, as far as the transfer graph knows of
    such tasks. Later stages may refer to the `model` that was found, which is built for each of their tasks, and to the
    `budget` that it was trained with, what was tuned included.
    """

    Result: ClassVar[type] = SearchResult
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    provides: ClassVar[Mapping[str, Any]] = {"model": ModelSpec, "budget": Budget}

    task: str = option(help="the task to find a network for")
    search: Part = part("search", help="what proposes the next network to try")
    models: ModelSpace = option(factory=ModelSpace, help="the networks to choose from, and what else is tuned")
    evaluations: int = option(30, ge=1, help="trainings that the search may ask for")
    budget: Budget | Reference | None = reference(Budget, help="of each training; the recipe's train by default")

    def check(self, portfolio: Portfolio) -> None:
        """The task can be learned and judged, and every network in question built for it, and told to other stages."""
        try:
            task = portfolio[self.task]
        except DataError as error:
            raise RecipeError(f"task: {error}") from None
        if self.task not in portfolio:
            raise RecipeError(f"task: {self.task!r} is held back as unseen: nothing is learned from it")
        for split, why in (("train", "learn"), ("validation", "choose"), ("test", "judge")):
            if not task.has_data(split):
                raise RecipeError(f"task: {self.task!r} has no {split} data, which a search needs to {why}")
        if not task.descriptor.input_shape or task.descriptor.output_dim is None:
            raise RecipeError(f"task: {self.task!r} needs input_shape and output_dim, for networks to be built")
        try:
            self.models.space(task.descriptor)
            self.models.require_specs()
        except OptionError as error:
            raise RecipeError(f"models: {error}") from None

    def work(self, engine: Engine) -> Outcome:
        result = run_model_search(
            self.context,
            self.made_of("search")[0],
            self.models,
            engine.portfolio[self.task],
            self.referred("budget") or engine.train_budget,
            self.evaluations,
            default=engine.model,
            seeds=engine.seeds,
            graph=engine.graph,
        )
        # Read from the record, where lists stand for tuples: a resumed run builds from nothing else.
        model = structure(result.model, ModelSpec, "the network that was found")
        return Outcome(result, {"model": model, "budget": result.budget})

    @classmethod
    def summary(cls, result: SearchResult) -> dict[str, Any]:
        assert result.best is not None  # a search without one has raised
        return {
            "search": result.search,
            "searched_task": result.task_id,
            "best_found": ", ".join(f"{name} {value}" for name, value in result.best.point.items()),
            "found_score": result.score,
            "default_score": result.default_score,
            "found_gain": result.gain,
            "failed_trials": result.failed or None,
        }

    @classmethod
    def sections(cls, result: SearchResult, graph: TransferGraph) -> list[Section]:
        from crosstask_search import report  # deferred: it needs plotly

        return [Section(report.TITLE, report.render(result))]
