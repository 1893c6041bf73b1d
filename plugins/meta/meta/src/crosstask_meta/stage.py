"""The stage `few_shot`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import nn

from crosstask.errors import DataError, OptionError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.options import component, option
from crosstask.parts import Part, Reference, part, reference
from crosstask.points.meta_learner import MetaLearner
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio, Task
from crosstask_meta.division import Division, divide
from crosstask_meta.few_shot import run_few_shot
from crosstask_meta.records import FewShotResult
from crosstask_meta.start import Start


@component
class FewShot(Stage):
    """A meta-learner trained on episodes of some classes (of one task) or of some tasks, and judged on episodes of
    those held out.

    It starts from a network of the recipe's model, or from one that another stage has made; with an adapter it trains
    that alone, and the head. Later stages may take the trained module: `learner`.
    """

    Result: ClassVar[type] = FewShotResult
    provides: ClassVar[Mapping[str, Any]] = {"learner": nn.Module}

    learner: Part = part("meta_learner", help="what is trained on the episodes")
    tasks: tuple[str, ...] = option((), help="one task, whose classes are split, or several; all tasks by default")
    held_out: tuple[str, ...] = option((), help="classes or tasks of the test; drawn if none are named")
    ways: int = option(5, ge=2, help="classes of an episode")
    shots: int = option(1, ge=1, help="support samples of each class")
    queries: int = option(5, ge=1, help="queries of each class")
    steps: int = option(300, ge=1, help="meta-steps")
    meta_batch: int = option(8, ge=1, help="episodes of a meta-step")
    test_episodes: int = option(200, ge=2, help="episodes of the test")
    model: ModelSpec | Reference | None = reference(ModelSpec, None, help="the network; the recipe's by default")
    encoder: nn.Module | Reference | None = reference(
        nn.Module, None, help="a network of features to start from, in the place of one of `model` drawn anew"
    )
    adapter: Part | None = part("adapter", None, help="train only this, on the frozen network, and the head")

    def __attrs_post_init__(self) -> None:
        if self.model is not None and self.encoder is not None:
            raise OptionError("FewShot: model is not used where there is an encoder: leave one of them out")

    def check(self, portfolio: Portfolio) -> None:
        try:
            division = self._division(portfolio)
            division.samplers(ways=self.ways, shots=self.shots, queries=self.queries)
        except DataError as error:
            raise RecipeError(str(error)) from None

    def work(self, engine: Engine) -> Outcome:
        self.context.tell("stage_started", stage="few_shot", total=self.steps)
        result, module = run_few_shot(
            self.context, self._learner(), self._start(engine), self._tasks(engine.portfolio),
            ways=self.ways, shots=self.shots, queries=self.queries, steps=self.steps, meta_batch=self.meta_batch,
            test_episodes=self.test_episodes, held_out=self.held_out or None,
        )  # fmt: skip
        self.context.tell("stage_finished", stage="few_shot", result=result)
        return Outcome(result, {"learner": module})

    def rebuild(self, engine: Engine, name: str, result: Any) -> nn.Module | None:
        division = self._division(engine.portfolio)
        train, _ = division.samplers(ways=self.ways, shots=self.shots, queries=self.queries)
        like = train.sample(1, self.context.generator("few shot", "train"))
        return self._start(engine).build(self.context, self._learner(), division.tasks[0].descriptor, like)

    @classmethod
    def summary(cls, result: FewShotResult) -> dict[str, Any]:
        started = {"few_shot_start": result.start} if result.start else {}
        return {
            "few_shot": f"{result.ways}-way {result.shots}-shot",
            "few_shot_learner": result.learner,
            **started,
            "few_shot_accuracy": result.accuracy,
            "few_shot_untrained": result.untrained_accuracy,
            "few_shot_by_chance": result.chance,
        }

    @classmethod
    def sections(cls, result: FewShotResult, graph: TransferGraph) -> list[Section]:
        from crosstask_meta.report import section  # deferred: plotly is heavy

        return [section(result)]

    def _tasks(self, portfolio: Portfolio) -> Task | list[Task] | Portfolio:
        chosen = [portfolio[task_id] for task_id in self.tasks]
        return chosen[0] if len(chosen) == 1 else chosen or portfolio

    def _division(self, portfolio: Portfolio) -> Division:
        generator = self.context.generator("few shot", "held out")
        return divide(self._tasks(portfolio), self.ways, self.held_out or None, generator)

    def _learner(self) -> MetaLearner:
        return cast(MetaLearner, self.made_of("learner")[0])

    def _start(self, engine: Engine) -> Start:
        encoder = self.referred("encoder")
        told = "" if encoder is None else _told(self.encoder)
        adapters = self.made_of("adapter")
        return Start(self.referred("model") or engine.model, encoder, adapters[0] if adapters else None, told)


def _told(encoder: nn.Module | Reference | None) -> str:
    if isinstance(encoder, Reference):
        return f"the {encoder.take} of {encoder.stage}"
    return f"a network that was given ({type(encoder).__name__})"
