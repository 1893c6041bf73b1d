"""The stage `multitask`: tasks trained together in one module, beside each of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from torch import nn

from crosstask.errors import DataError, OptionError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.learning.architecture import architecture
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import seeded
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.transferring import controls, fresh_model, key_of
from crosstask.logs import logger
from crosstask.options import component, option, structure, unstructure
from crosstask.parts import Part, Reference, part, reference
from crosstask.points.adapter import Adapter, AdapterHandle
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask_multitask.compatible import compatible_tasks, inputs_of, same_inputs
from crosstask_multitask.records import MultiTaskResult
from crosstask_multitask.sharing import MultiTaskModule
from crosstask_multitask.trainer import MultiTaskTrainer
from crosstask_multitask.trunks import Origin, of_architecture, of_model, of_module, of_task, own_network_of

NEEDED = "joint training needs at least two tasks"


@attrs.frozen(eq=False)
class _Joint:
    """A module for some tasks, untrained: with the trunk that it was built around, and where that comes from."""

    module: MultiTaskModule
    trunk: nn.Module
    origin: Origin
    notes: tuple[str, ...] = ()


@component
class Multitask(Stage):
    """Tasks trained together: one trunk, something of its own for each task, and a balancer that makes one update of
    the gradients of all. Beside it each task is trained alone, with as many samples as the joint training gives it.

    The trunk is drawn anew, as that of `model`; where none is named and the tasks' own models are of one architecture,
    as that of these. Or it starts as that of a `trunk`, or of the own model of the task `start`, whatever it is. With
    an `adapter` it stays as it is, frozen, and what is trained and balanced is the adapter (with what each task has of
    its own). Later stages may refer to the `model`, which takes inputs by task, and to its `trunk`, which gives
    features.
    """

    Result: ClassVar[type] = MultiTaskResult
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    results_version: ClassVar[int] = 3
    provides: ClassVar[Mapping[str, Any]] = {"model": nn.Module, "trunk": nn.Module}

    tasks: tuple[str, ...] = option((), help="at least two; those that the transfer graph finds compatible by default")
    balancer: Part = part("balancer", help="how the tasks' gradients become one update")
    sharing: Part = part("sharing", help="what the tasks share, and what each has of its own")
    sampler: Part | None = part("sampler", None, help="which tasks take part in a step; all by default")
    budget: Budget = option(factory=Budget, help="of the joint training; a step's batch is divided among the tasks")
    model: ModelSpec | Reference | None = reference(
        ModelSpec, help="the network whose trunk is shared; by default that of the tasks' own models, or the recipe's"
    )
    trunk: nn.Module | Reference | None = reference(
        nn.Module, help="start from this one: a module that gives features, or one with a part called `head`"
    )
    start: str | None = option(None, help="start from the trunk of this task's own model, trained first if need be")
    adapter: Part | None = part("adapter", None, help="train this on the trunk, whose own weights stay as they are")
    targets: tuple[str, ...] = option(
        (), help="layers of the trunk that the adapter sits on, `!name` to leave one out; its own choice by default"
    )

    def __attrs_post_init__(self) -> None:
        given = [name for name in ("model", "trunk", "start") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"Multitask: {' and '.join(given)} each say what the trunk is: give one of them")
        if self.targets and self.adapter is None:
            raise OptionError("Multitask: targets are those of an adapter: name one")

    # --- Before any work

    def check(self, portfolio: Portfolio) -> None:
        chosen = [_known(portfolio, "tasks", task_id) for task_id in self.tasks]
        if twice := [task_id for task_id in self.tasks if self.tasks.count(task_id) > 1]:
            raise RecipeError(f"tasks: {twice[0]!r} is named twice")
        if len(chosen) == 1:
            raise RecipeError(f"tasks: {NEEDED}, got {chosen[0].task_id!r} alone")
        for task in chosen:
            for split, called in (("train", "training"), ("test", "test")):
                if not task.has_data(split):
                    raise RecipeError(f"tasks: task {task.task_id!r} has no {called} data")
        if not chosen:
            chosen = same_inputs(portfolio)
            if len(chosen) < 2:
                raise RecipeError(f"tasks: {NEEDED} that have training and test data with inputs of one shape")
            if self.before is not None and "discovery" not in self.before:
                raise RecipeError(
                    f"tasks: {NEEDED}; none are named, and there is no discovery before this stage that could find out "
                    "which fit together: name them, or add a [discovery]"
                )
        shape = _one_shape(chosen)
        if self.start is not None:
            start = _known(portfolio, "start", self.start)
            if start.model is None and not start.has_data():
                raise RecipeError(f"start: task {self.start!r} has neither a model nor training data")
            its = inputs_of(start)
            if its and shape and its != shape:
                raise RecipeError(f"start: the model of {self.start!r} takes inputs {its}, the tasks have {shape}")

    # --- Work

    def work(self, engine: Engine) -> Outcome:
        ids = list(self.tasks) or compatible_tasks(engine.portfolio, engine.graph)
        if len(ids) < 2:
            raise DataError(f"{NEEDED}, and the transfer graph shows none that help one another: name them in `tasks`")
        tasks = [engine.portfolio[task_id] for task_id in ids]
        joint = self._built(engine, tasks)
        key = self._key(engine, tasks, joint.origin)
        known = self.context.recall("models", key)
        if known is not None:
            joint.module.load_state_dict(known.tensors)
            return self._outcome(structure(known.payload, MultiTaskResult, "stored joint training"), joint)
        self.context.tell("stage_started", stage="multitask", total=self.budget.steps)
        fresh_model(joint.origin.alone(tasks[0]), tasks[0], engine.seed)  # it refuses now what it would refuse later
        for each in joint.notes:
            logger().warning("multitask_note", note=each)
        sampler = next(iter(self.made_of("sampler")), None)
        trainer = MultiTaskTrainer(joint.module, tasks, self.made_of("balancer")[0], self.budget, self.context, sampler)
        trainer.fit()
        result = self._result(engine, trainer, joint, self._alone(engine, tasks, joint.origin))
        self.context.remember("models", key, result, joint.module.state_dict())
        self.context.tell("stage_finished", stage="multitask", result=result)
        return self._outcome(result, joint)

    def rebuild(self, engine: Engine, name: str, result: MultiTaskResult) -> nn.Module | None:
        joint = self._built(engine, [engine.portfolio[task_id] for task_id in result.tasks])
        return joint.trunk if name == "trunk" else joint.module

    def _outcome(self, result: MultiTaskResult, joint: _Joint) -> Outcome:
        artifacts: dict[str, nn.Module] = {"model": joint.module}
        if {id(p) for p in joint.trunk.parameters()} <= {id(p) for p in joint.module.parameters()}:
            artifacts["trunk"] = joint.trunk  # a sharing that copies it leaves the one that was given as it was
        return Outcome(result, artifacts)

    def _built(self, engine: Engine, tasks: list[Task]) -> _Joint:
        _one_shape(tasks)
        origin, notes = self._begun(engine, tasks)
        trunk = origin.trunk
        trunk.to(self.context.device)
        for adapter in self.made_of("adapter"):
            self._adapt(adapter, trunk)
        (sharing,) = self.made_of("sharing")
        with seeded(self.context.seed_for("multitask", "heads")):
            module: MultiTaskModule = self.context.call(sharing, "build", tasks=tasks, trunk=trunk)
        return _Joint(module.to(self.context.device), trunk, origin, notes)

    def _adapt(self, adapter: Adapter, trunk: nn.Module) -> None:
        """Put the adapter on the trunk, where it is all that can be trained."""
        trunk.requires_grad_(False)  # adapters freeze a model's own weights, but not those of an adapter from before
        generator = self.context.generator("multitask", "adapter")
        handle: AdapterHandle = self.context.call(
            adapter, "attach", model=trunk, targets=list(self.targets), generator=generator
        )
        inside = {id(p) for p in trunk.parameters()}
        if any(id(p) not in inside for p in handle.parameters()):
            raise DataError(f"{adapter.origin} keeps its weights outside the trunk: they cannot be shared there")

    def _begun(self, engine: Engine, tasks: list[Task]) -> tuple[Origin, tuple[str, ...]]:
        """Where the trunk comes from, and what should be said about that."""
        first, seed = tasks[0], self.context.seed_for("multitask")
        own = {t.task_id: n for t in tasks if (n := own_network_of(t, engine.model, seed)) is not None}
        kinds = {name: type(network).__name__ for name, network in own.items()}
        if (module := self.referred("trunk")) is not None:
            label = _named(self.trunk)
            return of_module(module, first, label), _unused(kinds, label)
        if self.start is not None:
            engine.train([self.start])
            kinds.pop(self.start, None)
            return of_task(engine.portfolio[self.start]), _unused(kinds, f"that of the model of task {self.start!r}")
        spec = self.referred("model")
        if spec is None and len(own) == len(tasks) and len(set(map(architecture, own.values()))) == 1:
            kind = next(iter(kinds.values()))
            told = f"The trunk is that of {kind}, drawn anew: the architecture of all these tasks' own models."
            return of_architecture(own[first.task_id], first, seed), (told,)
        chosen = spec or engine.model
        return of_model(chosen, first, seed, engine.seed), _unused(kinds, f"that of a {chosen.kind!r} network")

    def _key(self, engine: Engine, tasks: list[Task], origin: Origin) -> str:
        made = [[each.identity() for each in self.made_of(name)] for name in _PARTS]
        prints = [task.fingerprint() for task in tasks]
        wrappers: list[Any] = self.context.wrapping()
        return key_of(
            "multitask",
            self.results_version,
            made,
            self.targets,
            origin.label,
            origin.identity,
            prints,
            self.budget,
            engine.seed,
            wrappers,
        )

    def _alone(self, engine: Engine, tasks: list[Task], origin: Origin) -> dict[str, float]:
        """Each task's score after training it alone, with as many samples as the joint training gave it."""
        budget = attrs.evolve(self.budget, batch_size=max(1, self.budget.batch_size // len(tasks)))
        wanted = [(origin.alone(task).to(self.context.device), task) for task in tasks]
        found = controls(self.context, wanted, budget, 1, "test")
        return {task.task_id: score for task, ((score, _),) in zip(tasks, found, strict=True)}

    def _result(
        self, engine: Engine, trainer: MultiTaskTrainer, joint: _Joint, alone: dict[str, float]
    ) -> MultiTaskResult:
        made = {name: each[0] for name in _PARTS if (each := self.made_of(name))}
        spec = self.referred("model")
        scores, metrics = trainer.scores("test"), {t.task_id: metric_of(t) for t in trainer.tasks}
        learned = trainer.learned()
        unclear = tuple(f"{m.name}: what was learned of it is not finite." for m in learned if not m.finite)
        sizes = [(p.numel(), p.requires_grad) for p in joint.module.parameters()]
        return MultiTaskResult(
            tasks=tuple(alone),
            balancer=made["balancer"].origin,
            sharing=made["sharing"].origin,
            scores=scores,
            single_task_scores=alone,
            chances={t.task_id: c for t in trainer.tasks if (c := chance(t)) is not None},
            steps=tuple(trainer.steps),
            losses={t: tuple(v[s - 1] for s in trainer.steps if s <= len(v)) for t, v in trainer.history.items()},
            weights={t: tuple(v) for t, v in trainer.weights.items()},
            conflicts={name: tuple(v) for name, v in trainer.conflicts.items()},
            learned=tuple(m for m in learned if m.finite),
            start=joint.origin.label,
            adapter=made["adapter"].origin if "adapter" in made else None,
            trained_weights=sum(size for size, trained in sizes if trained),
            all_weights=sum(size for size, _ in sizes),
            seed=engine.seed,
            metrics={t: metric.told for t, metric in metrics.items()},
            intervals={t: confidence_interval([scores[t]], metric.range) for t, metric in metrics.items()},
            gains={t: confidence_interval([scores[t] - alone[t]], metric.gains) for t, metric in metrics.items()},
            notes=joint.notes + unclear,
            stopped=trainer.stopped,
            options={name: each.options() for name, each in made.items()}
            | {"budget": unstructure(self.budget)}
            | ({} if spec is None else {"model": unstructure(spec)}),
        )

    # --- What is shown

    @classmethod
    def summary(cls, result: MultiTaskResult) -> dict[str, Any]:
        mean = sum(result.scores.values()) / len(result.scores)
        alone = sum(result.single_task_scores.values()) / len(result.single_task_scores)
        shares = result.conflicts.get("conflict_share", ())
        rows: dict[str, Any] = {"trained_together": ", ".join(result.tasks)}
        if len(set(result.metrics.values())) > 1:  # their mean would mean nothing
            for task, metric in result.metrics.items():
                pair = f"{result.scores[task]:.3g}, alone {result.single_task_scores[task]:.3g}"
                rows[f"joint_score_of_{task}"] = f"{metric} {pair}"
        else:
            rows |= {"joint_mean_score": mean, "single_task_mean_score": alone, "joint_gain": mean - alone}
        if result.learned_nothing:
            told = "no better than always giving the most frequent answer"
            rows["nothing_learned"] = f"{', '.join(result.learned_nothing)}: {told}"
        rows["mean_conflict_share"] = sum(shares) / len(shares) if shares else None
        if result.start is not None:
            rows["joint_start"] = result.start
        if result.adapter is not None:
            rows |= {"joint_adapter": result.adapter, "joint_weights_trained": result.trained_weights}
        return rows

    @classmethod
    def sections(cls, result: MultiTaskResult, graph: TransferGraph) -> list[Section]:
        from crosstask_multitask import report  # deferred: it needs plotly

        return [Section(report.TITLE, report.render(result))]


_PARTS = ("balancer", "sharing", "sampler", "adapter")


def _known(portfolio: Portfolio, option: str, task_id: str) -> Task:
    """A task by the name that an option gives. RecipeError if there is none, or it is held back."""
    try:
        task = portfolio[task_id]
    except DataError as error:
        raise RecipeError(f"{option}: {error}") from None
    if task_id not in portfolio:
        raise RecipeError(f"{option}: task {task_id!r} is held back as unseen: nothing is learned from it")
    return task


def _one_shape(tasks: list[Task]) -> tuple[object, ...]:
    """The shape (or shapes) of the inputs of all these tasks. DataError if they differ."""
    shapes = {inputs_of(task) for task in tasks}
    if len(shapes) > 1:
        raise DataError(
            f"tasks with different input shapes cannot share a trunk: [{', '.join(sorted(map(str, shapes)))}]"
        )
    return shapes.pop()


def _unused(kinds: Mapping[str, str], trunk: str) -> tuple[str, ...]:
    """What is said of tasks whose own models, of these classes, are not used."""
    return tuple(
        f"The own model of task {name!r} ({kind}) is not used: the trunk is {trunk}; start = {name!r} takes its own."
        for name, kind in kinds.items()
    )


def _named(trunk: nn.Module | Reference | None) -> str:
    if isinstance(trunk, Reference):
        return f"the {trunk.take} of {trunk.stage}"
    return f"a network that was given ({type(trunk).__name__})"
