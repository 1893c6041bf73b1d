"""Stages: the steps of a recipe. All that `crosstask run` does after loading the tasks is a stage of a plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from crosstask.components import Component, Context, hook
from crosstask.errors import PluginError
from crosstask.records import Budget

if TYPE_CHECKING:
    import torch
    from torch import nn

    from crosstask.graph import TransferGraph
    from crosstask.learning.models import ModelSpec
    from crosstask.points.distillation import Distilled
    from crosstask.points.transfer import Transfer
    from crosstask.records import Advice, Curriculum, CurriculumResult, TransferResult
    from crosstask.registry import Registry
    from crosstask.tasks import Portfolio, Task


@attrs.frozen
class Section:
    """One section of the report: its heading and its HTML, made with `crosstask.report.page` and `.figures`.

    `marks` are tasks to be marked in the report's graph: id -> what it is, such as `target of the curriculum`.
    """

    title: str
    html: str
    marks: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Outcome:
    """What a stage came to: its record (an instance of `Stage.Result`), and by name what later stages may refer to.

    An artifact is an `nn.Module`, a `torch.Tensor`, a mapping of names to tensors, a record or plain data. Tensors and
    the weights of modules are kept as safetensors.
    """

    record: Any
    artifacts: Mapping[str, Any] = attrs.field(factory=dict)


class Engine(ABC):
    """What a stage sees of `crosstask.TransferEngine`."""

    portfolio: Portfolio
    """The tasks; `portfolio.unseen` are held back."""
    graph: TransferGraph
    """What is known of who helps whom."""
    model: ModelSpec
    """The network that is built for a task, unless a stage is given another."""
    train_budget: Budget
    """What each task's own model may spend (the recipe's `train`)."""
    budget: Budget
    """What a transfer into a target may spend (the recipe's `budget`)."""
    seed: int
    """Everything random follows from it."""
    seeds: int
    """Repeats of what is given with a confidence interval."""
    run: Context
    """The context of all components: seeds, jobs, remembered results, lifecycle hooks. Also `Stage.context`."""
    registry: Registry
    """Who offers what."""

    @property
    @abstractmethod
    def discoverers(self) -> Sequence[Component]:
        """The discoverers of this engine, in order."""

    @abstractmethod
    def method(self, strategy: Any = None) -> Transfer:
        """A transfer method; by default that of the recipe (of the engine)."""

    @abstractmethod
    def component(self, kind: type[Any], point: str, strategy: Any, options: Mapping[str, Any] | None = None) -> Any:
        """A component of this run: by name, enum member or `Choice`, the object itself, or None for the default."""

    @abstractmethod
    def train(self, tasks: Iterable[str] | None = None) -> None:
        """Train the tasks' own models (all with data, by default); those trained before are read from the store."""

    @abstractmethod
    def discover(self, discoverers: Iterable[Any] | None = None) -> TransferGraph:
        """Run discoverers (the engine's own, by default) over all pairs, in order; edges go into `graph`."""

    @abstractmethod
    def transfer_knowledge(
        self, source_task: str, target_task: str, transfer_strategy: Any = None, *, samples: bool = False
    ) -> TransferResult:
        """Transfer between two tasks against training from scratch."""

    @abstractmethod
    def generate_curriculum(self, target_task: str, strategy: Any = None, max_tasks: int = 5) -> Curriculum:
        """An order of tasks that ends with the target."""

    @abstractmethod
    def run_curriculum(
        self, curriculum: Curriculum, transfer_strategy: Any = None, *, planner: Any = None, gate: bool = True
    ) -> CurriculumResult:
        """Train through a curriculum, each step starting from what is kept of the steps before."""

    @abstractmethod
    def distill(self, tasks: Sequence[str], strategy: Any = None, samples: torch.Tensor | None = None) -> Distilled:
        """What several tasks have in common."""

    @abstractmethod
    def synthesize_zero_shot_model(
        self, new_task: str | Task, synthesis_strategy: Any = None, inputs: torch.Tensor | None = None,
        *, expect: bool = True,
    ) -> nn.Module:  # fmt: skip
        """A model for an unseen task, made from the others without its labels."""

    @abstractmethod
    def advise(self, target: str, transfer_strategy: Any = None, *, share: float = 0.25) -> Advice:
        """Which task's model to learn the target from."""

    @abstractmethod
    def fingerprint(self) -> list[Any]:
        """What determines the results of a stage besides its options: tasks, given models, graph, budgets, seed."""

    @abstractmethod
    def run_stage(self, name: str, **options: Any) -> Outcome:
        """Run one stage by name; its options as keyword arguments."""


class Stage(Component):
    """One step of a recipe: the table `[name]` of a recipe holds its options, and `work` does it.

    The options that the class declares *are* the recipe's table. `crosstask stage NAME`, `TransferEngine.run_stage` and
    a recipe run it in the same way; `run.json` keeps its record under its name, the summary and the report show what
    `summary` and `sections` say.

    A table `[joint2]` with `use = "multitask"` runs a stage a second time under another name.
    """

    point: ClassVar[str] = "stage"

    Result: ClassVar[type]
    """The record (made with `crosstask.record`) that `work` returns; `run.json` reads it back."""

    after: ClassVar[tuple[str, ...]] = ()
    """Stages that come first where both are in a recipe. All others follow the recipe's order."""

    provides: ClassVar[Mapping[str, Any]] = {}
    """What later stages may refer to: name -> type of the artifact. Checked when a recipe is loaded."""

    needs_models: ClassVar[bool] = False
    """Whether the tasks' own models are trained first."""

    leads: ClassVar[bool] = False
    """Whether its sections stand at the head of the report, before those of the others."""

    before: tuple[str, ...] | None = None
    """In a recipe: the kinds of the stages that run before this one. None where the stage is run alone."""

    taken: frozenset[str] = frozenset()
    """In a recipe: which of its artifacts later stages refer to, so that `check` can refuse what it will not give."""

    keeps: ClassVar[bool] = True
    """Whether a finished stage is taken from the store in a resumed run. False for one that changes the engine (its
    graph, its tasks' models): it works again, on results that its components remember.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kinds: dict[str, tuple[Any, str]] = {
            "after": (tuple | list, "a tuple of stages' names"),
            "provides": (Mapping, "a mapping of names to types"),
        }
        for name, (kind, wanted) in kinds.items():
            if name in vars(cls) and not isinstance(vars(cls)[name], kind):
                raise PluginError(f"{cls.__name__}.{name} must be {wanted}, got {vars(cls)[name]!r}")

    def check(self, portfolio: Portfolio) -> None:
        """Raise a RecipeError if these options do not fit these tasks: names, shapes, sizes. Called before any work."""

    @abstractmethod
    @hook(first=True, returns=Outcome)
    def work(self, engine: Engine) -> Outcome:
        """Do it. Everything random follows from `self.context.seed_for(...)`; jobs go through `self.context.jobs`, and
        what takes long is kept with `self.context.remember`, so that a run that was killed goes on where it was.
        """

    def rebuild(self, engine: Engine, name: str, result: Any) -> nn.Module | None:
        """In a resumed run: a module for the artifact `name` of this result, into which its weights are loaded. None if
        it cannot be made without the work; the stage then works again.
        """
        return None

    @classmethod
    def summary(cls, result: Any) -> dict[str, Any]:
        """Rows of the table that is shown at the end of a run: name -> figure."""
        return {}

    @classmethod
    def sections(cls, result: Any, graph: TransferGraph) -> list[Section]:
        """Sections of the report. Only the record is there, and the graph: a report can be written without the run.

        Import `crosstask.report.page` and `crosstask.report.figures` inside: they need plotly.
        """
        return []
