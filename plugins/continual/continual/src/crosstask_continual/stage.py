"""The stage `continual`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from crosstask.errors import DataError, RecipeError
from crosstask.learning.models import ModelSpec
from crosstask.options import component, option
from crosstask.parts import Part, Reference, part, reference
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask_continual.comparison import Comparison, refuse_new_networks, run_continual
from crosstask_continual.learner import writes
from crosstask_continual.model import SCENARIOS
from crosstask_continual.records import ContinualResult
from crosstask_continual.split import split_by_classes

if TYPE_CHECKING:
    from crosstask.graph import TransferGraph
    from crosstask.tasks import Portfolio, Task


@component
class Continual(Stage):
    """Tasks learned one after another, with strategies that keep the model from forgetting; beside it the same without
    them, all tasks at once, always answering the majority class, and answering at random.
    """

    results_version: ClassVar[int] = 2
    Result: ClassVar[type] = ContinualResult
    provides: ClassVar[Mapping[str, Any]] = {"model": nn.Module}

    strategies: tuple[Part, ...] = part("continual", (), help="what keeps from forgetting; several work together")
    tasks: tuple[str, ...] | Reference = reference(
        tuple[str, ...], (), help="in this order; all tasks by default; a curriculum's with from, take = 'order'"
    )
    parts: int | None = option(None, ge=2, help="split the one task named into so many, by its classes")
    scenario: str = option("task", choices=SCENARIOS, help="what is known and asked for in the test")
    epochs: int = option(1, ge=1, help="of each task")
    batch_size: int = option(128, ge=1, help="samples per step")
    learning_rate: float = option(1e-3, gt=0, help="step size")
    optimizer: str = option("adam", choices=("adam", "adamw", "sgd"), help="torch.optim optimiser")
    grow: bool = option(False, help="let the head grow with the classes seen, instead of masking it")
    model: ModelSpec | Reference | None = reference(
        ModelSpec, None, help="the network to build, e.g. one that a search has found; the recipe's model by default"
    )
    adapter: Part | None = part("adapter", None, help="train this and the head; the network stays as it was drawn")

    def check(self, portfolio: Portfolio) -> None:
        """Names, shapes and classes; of tasks that another stage provides nothing is known yet."""
        if not isinstance(self.tasks, Reference):
            self._chosen(portfolio)
        for adapter in self.made_of("adapter"):
            refuse_new_networks(adapter, self.made_of("strategies"))

    def work(self, engine: Engine) -> Outcome:
        result, network = run_continual(
            self.context,
            self.made_of("strategies"),
            self._model(engine),
            self._sequence(engine.portfolio),
            self.scenario,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            grow=self.grow,
            adapter=self._adapter(),
            seeds=engine.seeds,
        )
        return Outcome(result, {"model": network})

    def rebuild(self, engine: Engine, name: str, result: ContinualResult) -> nn.Module | None:
        """A network such as the first seed's; None if a strategy has put another in its place."""
        if any(writes(strategy, "resumes") for strategy in self.made_of("strategies")):
            return None
        tasks = self._sequence(engine.portfolio)
        made = Comparison(self.context, self._model(engine), tasks, {}, self.epochs, self._adapter())
        return made.network(0, result.outputs).eval()

    def _model(self, engine: Engine) -> ModelSpec:
        found: ModelSpec | None = self.referred("model")
        return engine.model if found is None else found

    def _adapter(self) -> Any:
        return next(iter(self.made_of("adapter")), None)

    def _sequence(self, portfolio: Portfolio) -> list[Task]:
        """The tasks to learn, in their order."""
        tasks = self._chosen(portfolio)
        return tasks if self.parts is None else split_by_classes(tasks[0], self.parts)

    def _chosen(self, portfolio: Portfolio) -> list[Task]:
        """The tasks named. RecipeError if they cannot be learned in sequence; nothing is read for that."""
        names: Sequence[str] = self.referred("tasks")
        try:
            tasks = [portfolio[name] for name in names] or list(portfolio)
        except DataError as error:
            raise RecipeError(f"tasks: {error}") from None
        if len(set(names)) < len(names):
            raise RecipeError(f"tasks: each can be learned once, got {', '.join(names)}")
        if self.parts is not None and len(tasks) != 1:
            raise RecipeError(f"parts splits one task by its classes: name it in tasks, which means {len(tasks)}")
        for task in tasks:
            _check_task(task)
        if self.parts is None:
            self._check_several(tasks)
        else:
            self._check_parts(tasks[0], self.parts)
        return tasks

    def _check_several(self, tasks: list[Task]) -> None:
        if len(tasks) < 2:
            raise RecipeError(
                f"tasks: at least two are learned one after another, got {tasks[0].task_id!r}; to split one by its "
                "classes set parts"
            )
        shapes = {shape: task.task_id for task in tasks if (shape := task.descriptor.input_shape)}
        if len(shapes) > 1:
            told = ", ".join(f"{shape} of {name!r}" for shape, name in shapes.items())
            raise RecipeError(f"tasks: one network learns them all, but their inputs have different shapes: {told}")
        sizes = {task.descriptor.output_dim: task.task_id for task in tasks}
        if self.scenario == "domain" and len(sizes) > 1:
            told = ", ".join(f"{size} of {name!r}" for size, name in sizes.items())
            raise RecipeError(f"tasks: in scenario 'domain' all have as many classes; there are {told}")

    def _check_parts(self, task: Task, parts: int) -> None:
        name, count = task.task_id, task.descriptor.output_dim or 0
        if parts > count:
            raise RecipeError(f"parts: task {name!r} has {count} classes, it cannot be split into {parts} tasks")
        if self.scenario == "domain" and count % parts:
            raise RecipeError(
                f"parts: in scenario 'domain' all have as many classes; the {count} of {name!r} cannot be split evenly "
                f"into {parts}"
            )

    @classmethod
    def summary(cls, result: ContinualResult) -> dict[str, Any]:
        naive = result.naive
        rows = {
            "continual": f"{len(result.tasks)} tasks, {result.scenario}-incremental",
            "continual_strategies": ", ".join(result.strategies) or "none",
            "continual_accuracy": result.scores.accuracy,
            "continual_accuracy_without": naive.accuracy if naive else None,
            "continual_accuracy_of_joint_training": result.joint,
            "continual_accuracy_of_majority_class": result.majority,
            "continual_accuracy_of_chance": result.chance,
            "forgetting": result.scores.forgetting,
            "forgetting_without": naive.forgetting if naive else None,
            "knowledge_retention": result.scores.retention,
        }
        if result.adapter is not None:
            rows["continual_adapter"] = f"{result.adapter}: {result.trained_weights} of {result.weights} weights"
        if result.learned_nothing:
            rows["nothing_learned"] = "no better than always answering the majority class"
        return rows

    @classmethod
    def sections(cls, result: ContinualResult, graph: TransferGraph) -> list[Section]:
        from crosstask_continual.report import section  # deferred: it needs plotly

        return [section(result)]


def _check_task(task: Task) -> None:
    known = task.descriptor
    if known.task_type != "classification" or known.output_dim is None:
        raise RecipeError(
            f"tasks: continual learning needs classification tasks with output_dim; {task.task_id!r} is a "
            f"{known.task_type} task with {known.output_dim} outputs"
        )
    if not task.has_data("train"):
        raise RecipeError(f"tasks: {task.task_id!r} has no train data")
