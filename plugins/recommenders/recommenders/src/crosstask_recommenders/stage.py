"""The stage `recommend`."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from torch import Tensor

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio, Task
from crosstask_recommenders.contract import Recommender
from crosstask_recommenders.evaluation import ColdStart, cold_start, cold_users
from crosstask_recommenders.records import RecommendResult
from crosstask_recommenders.support import Support
from crosstask_recommenders.tables import ITEM, USER, interactions_of


@component
class Recommend(Stage):
    """Recommenders fitted to the interactions of most users, and judged on the others, known by a few ratings alone.

    The task's inputs are `user_ids` and `item_ids`, as source `ratings` makes them. A regression is explicit feedback,
    a classification of two classes implicit: of class 1 are the items that a user has. Its splits are put together:
    what is held back here are users. What cannot take the task's feedback is refused before any work.
    """

    Result: ClassVar[type] = RecommendResult

    recommenders: tuple[Part, ...] = part("recommender", (), help="what is fitted and judged, baselines among them")
    task: str = option("", help="the task that holds the interactions; the first that does, by default")
    supports: tuple[int, ...] = option((1, 3, 5, 10), ge=1, help="numbers of support ratings")
    test_users: float = option(0.2, gt=0, lt=1, help="share of the users that is held back")
    queries: int = option(10, ge=1, help="further ratings of each such user, at most")
    negatives: int = option(100, ge=1, help="items that a user does not have, among which each query is ranked")
    top: int = option(10, ge=1, help="k of NDCG@k and hit@k")

    def check(self, portfolio: Portfolio) -> None:
        try:
            task = self._task(portfolio)
        except DataError as error:
            raise RecipeError(f"task: {error}") from None
        kind = "explicit" if task.descriptor.task_type == "regression" else "implicit"
        if not self.recommenders:
            raise RecipeError("recommenders: name at least one (`crosstask plugins list recommender`)")
        if not self.supports:
            raise RecipeError("supports: name at least one number of support ratings")
        for made in self._recommenders():
            if kind not in made.capabilities:
                raise RecipeError(f"recommenders: {made.origin} does not take the {kind} feedback of {task.task_id!r}")

    def work(self, engine: Engine) -> Outcome:
        made, task = self._recommenders(), self._task(engine.portfolio)
        self.context.tell("stage_started", stage="recommend", total=len(made))
        table = interactions_of(task)
        train, test = cold_users(table, self.test_users, max(self.supports) + 1, self.context.seed_for("cold users"))
        cold = ColdStart.of(
            test, self.supports, queries=self.queries, negatives=self.negatives, top=self.top,
            liked=float(train.rating.mean()), generator=self.context.generator("cold start"),
        )  # fmt: skip
        scores, seconds, called = [], {}, _called(made)
        for name, recommender in zip(called, made, strict=True):
            before = time.process_time()
            model = self.context.call(recommender, "fit", interactions=train)
            seconds[name] = time.process_time() - before

            def scorer(support: Support, items: Tensor, of: Recommender = recommender, model: Any = model) -> Tensor:
                found: Tensor = self.context.call(of, "score", model=model, support=support, items=items)
                return found

            scores += cold_start(scorer, cold, name, baseline="baseline" in recommender.capabilities)
            self.context.tell("stage_progress", stage="recommend", detail=name)
        result = RecommendResult(
            task=task.task_id, feedback=table.feedback, train_users=int((train.counts()[1:] > 0).sum()),
            test_users=len(cold), items=table.items, top=self.top, negatives=cold.negatives.shape[1],
            scores=tuple(scores), fit_seconds=seconds,
        )  # fmt: skip
        self.context.tell("stage_finished", stage="recommend", result=result)
        return Outcome(result)

    @classmethod
    def summary(cls, result: RecommendResult) -> dict[str, Any]:
        rows: dict[str, Any] = {"recommend": f"{result.test_users} cold users, {result.feedback} feedback"}
        for support in result.supports:
            pick = min if result.main == "rmse" else max
            best = pick((s for s in result.scores if s.support == support), key=lambda each: getattr(each, result.main))
            rows[f"recommend_best_of_{support}"] = f"{best.recommender}: {result.main} {getattr(best, result.main):.3f}"
        return rows

    @classmethod
    def sections(cls, result: RecommendResult, graph: TransferGraph) -> list[Section]:
        from crosstask_recommenders.report import section  # deferred: plotly is heavy

        return [section(result)]

    def _recommenders(self) -> list[Recommender]:
        return self.made_of("recommenders")

    def _task(self, portfolio: Portfolio) -> Task:
        """The task named, or the first with users and items. DataError where it holds no interactions."""
        if self.task:
            chosen = portfolio[self.task]
        else:
            chosen = next((t for t in portfolio if _holds(t)), None)  # type: ignore[assignment]
            if chosen is None:
                raise DataError(f"no task has the inputs {USER!r} and {ITEM!r}, as source 'ratings' makes them")
        if not _holds(chosen):
            raise DataError(f"task {chosen.task_id!r} has not the inputs {USER!r} and {ITEM!r} that interactions have")
        if chosen.descriptor.task_type not in ("regression", "classification"):
            raise DataError(
                f"task {chosen.task_id!r} is a {chosen.descriptor.task_type}: ratings or two classes are meant"
            )
        if chosen.descriptor.task_type == "classification" and (chosen.descriptor.output_dim or 0) > 2:
            count = chosen.descriptor.output_dim
            raise DataError(f"task {chosen.task_id!r} has {count} classes: ratings or two classes are meant")
        return chosen


def _holds(task: Task) -> bool:
    if not task.has_data():
        return False
    task.data()  # what the descriptor leaves open is found in the training data
    return {USER, ITEM} <= set(task.descriptor.input_shapes)


def _called(made: list[Recommender]) -> list[str]:
    """Their names, numbered where one stands there twice."""
    names = [each.name.rpartition(":")[2] for each in made]
    return [
        name if names.count(name) == 1 else f"{name} {names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]
