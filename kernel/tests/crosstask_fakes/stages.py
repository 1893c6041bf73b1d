"""Stages that give artifacts of every kind and refer to one another."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from torch import nn

from crosstask.errors import RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning import evaluate
from crosstask.options import component, option, record
from crosstask.parts import Part, part, reference
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.tasks import Portfolio


@record
class Looked:
    """What `FakeLook` came to."""

    edges: int
    mean: float


@component
class FakeLook(Stage):
    """Discovers: it changes the engine's graph, and so works again in a resumed run."""

    Result: ClassVar[type] = Looked
    keeps: ClassVar[bool] = False
    provides: ClassVar[dict[str, Any]] = {"edges": int}
    discoverers: tuple[Part, ...] = part("discovery", (), help="in this order; none: those that manifests mark")

    def work(self, engine: Engine) -> Outcome:
        graph = engine.discover(self.made_of("discoverers") or None)
        found = [edge.transfer_coefficient for edge in graph.edges()]
        return Outcome(Looked(edges=len(found), mean=sum(found) / max(1, len(found))), {"edges": len(found)})

    @classmethod
    def summary(cls, result: Looked) -> dict[str, Any]:
        return {"edges_found": result.edges, "mean_coefficient": result.mean}

    @classmethod
    def sections(cls, result: Looked, graph: TransferGraph) -> list[Section]:
        from crosstask.report import graph_view

        return [Section("Transfer graph", graph_view.render(graph))]


@record
class Told:
    """An artifact that is a record."""

    task: str
    figures: tuple[float, ...] = ()


@record
class Prepared:
    """What `FakePrepare` came to."""

    task: str
    told: str = ""
    options: dict[str, Any] = attrs.field(factory=dict)


@component
class FakePrepare(Stage):
    """Makes a model of a task without training it, and an artifact of every other kind."""

    Result: ClassVar[type] = Prepared
    provides: ClassVar[dict[str, Any]] = {
        "model": nn.Module,
        "centre": torch.Tensor,
        "means": dict[str, torch.Tensor],
        "names": tuple[str, ...],
        "told": Told,
    }
    task: str = option("task0", help="whose model is made")
    scale: float = option(1.0, gt=0, help="factor of the weights")
    withhold: str = option("", help="an artifact that it does not give, though it says that it does")
    chooser: Part = part("chooser", help="chooses the names")

    def check(self, portfolio: Portfolio) -> None:
        if self.task not in portfolio:
            raise RecipeError(f"prepare: task: {portfolio.name} has no {self.task!r}")

    def work(self, engine: Engine) -> Outcome:
        self.context.tell("stage_started", stage="prepare", total=1)
        task = engine.portfolio[self.task]
        model = engine.model.build(task.descriptor, self.context.seed_for("prepare", self.task))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(self.scale)
        inputs = task.data("train").inputs
        (chooser,) = self.made_of("chooser")
        given: dict[str, Any] = {
            "model": model,
            "centre": inputs.mean(0),
            "means": {each.task_id: each.data("train").inputs.mean(0) for each in engine.portfolio},
            "names": tuple(self.context.call(chooser, "choose", tasks=list(engine.portfolio.ids), most=2)),
            "told": Told(task=self.task, figures=(0.5, 0.25)),
        }
        given.pop(self.withhold, None)
        self.context.tell("stage_progress", stage="prepare", detail=self.task)
        result = Prepared(task=self.task, told="made", options=self.options())
        self.context.tell("stage_finished", stage="prepare", result=result)
        return Outcome(result, given)

    def rebuild(self, engine: Engine, name: str, result: Prepared) -> nn.Module | None:
        return engine.model.build(engine.portfolio[result.task].descriptor, 0)

    @classmethod
    def summary(cls, result: Prepared) -> dict[str, Any]:
        return {"prepared": result.task}

    @classmethod
    def sections(cls, result: Prepared, graph: TransferGraph) -> list[Section]:
        return [Section("Prepared", f"<p>a model of {result.task}</p>")]


@record
class Measured:
    """What `FakeMeasure` came to."""

    score: float
    chosen: tuple[str, ...] = ()
    balancer: str = ""
    trained: int = 0


@component
class FakeMeasure(Stage):
    """Measures a model that another stage made, beside the tasks' own, which are trained first."""

    Result: ClassVar[type] = Measured
    after: ClassVar[tuple[str, ...]] = ("look",)
    provides: ClassVar[dict[str, Any]] = {"scores": dict[str, float], "chosen": tuple[str, ...]}
    needs_models: ClassVar[bool] = True
    task: str = option("task0", help="on which it is measured")
    model: nn.Module | None = reference(nn.Module, help="the model; the task's own by default")
    chosen: tuple[str, ...] = reference(tuple[str, ...], (), help="which tasks were chosen")
    centre: torch.Tensor | None = reference(torch.Tensor, help="subtracted from the inputs")
    balancer: Part | None = part("balancer", None, help="named in the result")

    def check(self, portfolio: Portfolio) -> None:
        portfolio[self.task]

    def work(self, engine: Engine) -> Outcome:
        self.context.tell("stage_started", stage="measure", total=None)
        task = engine.portfolio[self.task]
        model = self.referred("model") or task.model
        score = evaluate(model, task, "test")
        result = Measured(
            score=score,
            chosen=self.referred("chosen"),
            balancer="".join(made.name for made in self.made_of("balancer")),
            trained=sum(each.model is not None for each in engine.portfolio),
        )
        self.context.tell("stage_finished", stage="measure", result=result)
        return Outcome(result, {"scores": {self.task: score}, "chosen": result.chosen})

    @classmethod
    def summary(cls, result: Measured) -> dict[str, Any]:
        return {"measured_score": result.score}


class Odd(nn.Module):
    """A module that nobody can make again without the work."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 0.5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.weight


@record
class Grown:
    """What `FakeWild` came to."""

    size: int
    first: float = 0.0


@component
class FakeWild(Stage):
    """Gives a module that cannot be made again: `rebuild` says so, and a resumed run works again."""

    Result: ClassVar[type] = Grown
    provides: ClassVar[dict[str, Any]] = {"net": nn.Module, "drawn": torch.Tensor}
    size: int = option(2, ge=1, help="of the module")

    def work(self, engine: Engine) -> Outcome:
        self.context.tell("stage_started", stage="wild", total=None)
        drawn = torch.rand(self.size, generator=self.context.generator("wild"))
        result = Grown(size=self.size, first=float(drawn[0]))
        self.context.tell("stage_finished", stage="wild", result=result)
        return Outcome(result, {"net": Odd(self.size), "drawn": drawn})


@component
class FakeBare(Stage):
    """Has neither options nor artifacts."""

    Result: ClassVar[type] = Grown

    def work(self, engine: Engine) -> Outcome:
        return Outcome(Grown(size=0))
