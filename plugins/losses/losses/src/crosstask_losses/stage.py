"""The stage `losses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from crosstask.errors import CrosstaskError, DataError, OptionError, PluginError, RecipeError, told
from crosstask.learning.modules import seeded
from crosstask.options import component, option, unstructure
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Budget
from crosstask.registry import load
from crosstask_losses.aggregator import USUAL, LossAggregator
from crosstask_losses.records import LossesResult
from crosstask_losses.schedules import WeightSchedule
from crosstask_losses.trainer import ObjectiveTrainer

if TYPE_CHECKING:
    from crosstask.graph import TransferGraph
    from crosstask.tasks import Portfolio, Task


@component
class Losses(Stage):
    """A model of one's own trained on several objectives at once: each step its outputs become one loss for each
    objective, and a balancer makes one update of their gradients. Losses per term, weights, and how much the
    objectives' gradients conflict are kept as training goes on.
    """

    Result: ClassVar[type] = LossesResult
    provides: ClassVar[Mapping[str, Any]] = {"model": nn.Module}

    model: str = option(help="module:function that makes the network, called with the shape of an input (T, C, H, W)")
    arguments: dict[str, Any] = option(factory=dict, help="what the function is called with besides, by name")
    task: str | None = option(None, help="whose inputs are the observations; needed where there are several tasks")
    objectives: tuple[Part, ...] = part("loss", USUAL, help="what the model is to be good at")
    balancer: Part = part("balancer", help="how the objectives' gradients become one update")
    weights: dict[str, WeightSchedule] = option(
        factory=dict, help="of terms, by name: numbers, or tables with kind, start, end, steps"
    )
    off: tuple[str, ...] = option((), help="objectives and terms that are left out")
    lr_multipliers: dict[str, float] = option(
        factory=dict, gt=0, help="parts of the model whose learning rate is so many times the budget's"
    )
    budget: Budget = option(factory=Budget, help="of the training")

    def check(self, portfolio: Portfolio) -> None:
        """The task, its inputs, objectives and weights; nothing is made of the model yet."""
        task = self._chosen(portfolio)
        shapes = task.descriptor.input_shapes or {"observations": task.descriptor.input_shape}
        if "observations" not in shapes or not set(shapes) <= {"observations", "actions"}:
            told_names = ", ".join(shapes)
            raise RecipeError(f"task: {task.task_id!r} must have inputs observations and actions, it has {told_names}")
        if shapes["observations"] and len(shapes["observations"]) != 4:
            raise RecipeError(
                f"task: the inputs of {task.task_id!r} must be sequences of frames (T, C, H, W), they are "
                f"{shapes['observations']}"
            )
        if ":" not in self.model:
            raise RecipeError(f"model must look like 'module:function', got {self.model!r}")
        if self.budget.patience is not None:
            raise RecipeError("budget: patience needs a metric to judge by, and objectives have none: leave it out")
        try:
            self._aggregator()
        except OptionError as error:
            raise RecipeError(str(error)) from None

    def work(self, engine: Engine) -> Outcome:
        task = self._chosen(engine.portfolio)
        data, network, aggregator = task.data("train"), self._network(engine), self._aggregator()
        (balancer,) = self.made_of("balancer")
        self.context.tell("stage_started", stage="losses", total=self.budget.steps)
        trainer = ObjectiveTrainer(
            network, aggregator, data.inputs, balancer, self.budget, self.context, lr_multipliers=self.lr_multipliers
        )
        held = next((task.data(split).inputs for split in ("test", "validation") if task.has_data(split)), data.inputs)
        before = trainer.evaluate(held)
        trainer.fit()
        curves = {kind: {k: tuple(v) for k, v in found.items()} for kind, found in trainer.curves.items()}
        names = {
            "balancer": balancer.options(),
            "objectives": [each.identity() for each in aggregator.objectives.values()],
        }
        result = LossesResult(
            task=task.task_id,
            model=self.model,
            balancer=balancer.origin,
            objectives={name: tuple(terms) for name, terms in aggregator.terms().items()},
            steps=tuple(trainer.steps),
            before=before,
            after=trainer.evaluate(held),
            parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
            stopped=trainer.stopped,
            seed=engine.seed,
            options=unstructure({"budget": self.budget, "weights": self.weights, "off": self.off, **names}),
            **curves,
        )
        self.context.tell("stage_finished", stage="losses", result=result)
        return Outcome(result, {"model": network})

    def rebuild(self, engine: Engine, name: str, result: LossesResult) -> nn.Module | None:
        return self._network(engine)

    def _aggregator(self) -> LossAggregator:
        return LossAggregator(self.made_of("objectives"), weights=self.weights, off=self.off, context=self.context)

    def _network(self, engine: Engine) -> nn.Module:
        """The user's own network, initialised from the run's seed."""
        told_shapes = self._chosen(engine.portfolio).descriptor
        shape = told_shapes.input_shape or told_shapes.input_shapes
        try:
            function = load(self.model, self.origin)
        except PluginError as error:
            raise RecipeError(f"model: {error}") from error
        with seeded(self.context.seed_for("losses", "model")):
            try:
                made: Any = function(shape, **self.arguments)
            except CrosstaskError:
                raise
            except Exception as error:  # the user's own code
                raise DataError(f"model: {self.model} fails for inputs {shape}: {told(error)}") from error
        if not isinstance(made, nn.Module):
            raise DataError(f"model: {self.model} made a {type(made).__name__}, not a torch module")
        return made.to(self.context.device)

    def _chosen(self, portfolio: Portfolio) -> Task:
        ids = list(portfolio.ids)
        if self.task is None and len(ids) != 1:
            told_ids = ", ".join(ids) or "none"
            raise RecipeError(f"task: name the one whose inputs are the observations; there are {told_ids}")
        try:
            task = portfolio[self.task or ids[0]]
        except DataError as error:
            raise RecipeError(f"task: {error}") from None
        if not task.has_data("train"):
            raise RecipeError(f"task: {task.task_id!r} has no train data")
        return task

    @classmethod
    def summary(cls, result: LossesResult) -> dict[str, Any]:
        rows: dict[str, Any] = {"trained_on": ", ".join(result.objectives), "balanced_by": result.balancer}
        for name, terms in result.objectives.items():
            for term in terms:
                rows[term] = f"{result.after[term]:.4g} ({name}; untrained {result.before[term]:.4g})"
        shares = [share for share in result.conflicts.get("conflict_share", ()) if share is not None]
        rows["mean_conflict_share"] = sum(shares) / len(shares) if shares else None
        return rows

    @classmethod
    def sections(cls, result: LossesResult, graph: TransferGraph) -> list[Section]:
        from crosstask_losses.report import section  # deferred: it needs plotly

        return [section(result)]
