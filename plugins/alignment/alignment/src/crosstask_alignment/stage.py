"""The stage `alignment`: a model adapted to tasks whose labels it never sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TensorData
from crosstask.errors import DataError, RecipeError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.inputs import joined
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import copy_of
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import key_of
from crosstask.logs import logger
from crosstask.options import component, option, structure, unstructure
from crosstask.parts import Part, Reference, part, reference
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Budget, Interval
from crosstask.tasks import Portfolio, Task
from crosstask_alignment.contract import Alignment
from crosstask_alignment.probing import domain_accuracy
from crosstask_alignment.records import AlignmentResult
from crosstask_alignment.training import Features, check_conditional, fit_aligned

PROBED = 1000
"""The most test samples of a domain by which domains are told apart."""


@component
class Align(Stage):
    """A model trained on labelled source tasks so that its features do not tell the sources from the targets, whose
    labels it never sees; beside it the same training without that (source only), and training on each target's labels.

    All have the same network, the same steps and, for each seed, the same batches of the sources. Every task is a
    domain, and gives as many rows to a step as the budget's batch has. Later stages may refer to the adapted `model`
    (of the first seed).
    """

    Result: ClassVar[type] = AlignmentResult
    provides: ClassVar[Mapping[str, Any]] = {"model": nn.Module}

    alignment: Part = part("alignment", help="the term that is added to the loss")
    sources: tuple[str, ...] = option((), help="tasks with labels; by default all that are not targets")
    targets: tuple[str, ...] = option((), help="tasks whose labels are not used; by default all that are not sources")
    weight: float = option(1.0, ge=0, help="of the term, beside the sources' loss")
    budget: Budget = option(factory=Budget, help="of each training; its batch is that of each domain")
    supervised: bool = option(True, help="also train on each target's labels, to see what could be had")
    model: ModelSpec | Reference | None = reference(
        ModelSpec, None, help="the network to build, e.g. one that a search has found; the recipe's model by default"
    )

    # --- Before any work

    def check(self, portfolio: Portfolio) -> None:
        sources, _ = self._chosen(portfolio)
        try:
            check_conditional(self._alignment(), sources[0])
        except DataError as error:
            raise RecipeError(f"alignment: {error}") from None

    def _chosen(self, portfolio: Portfolio) -> tuple[list[Task], list[Task]]:
        """(sources, targets). RecipeError if one network cannot learn them."""
        for name in ("sources", "targets"):
            names = getattr(self, name)
            for task_id in names:
                if task_id not in portfolio:
                    raise RecipeError(f"{name}: no task {task_id!r}{nearest(task_id, portfolio.ids)}")
            if twice := [task_id for task_id in names if names.count(task_id) > 1]:
                raise RecipeError(f"{name}: {twice[0]!r} is named twice")
        if both := [task_id for task_id in self.sources if task_id in self.targets]:
            raise RecipeError(f"targets: {both[0]!r} is a source, too: its labels are used or they are not")
        if not self.sources and not self.targets:
            raise RecipeError("targets: say which tasks have no labels (the others are sources), or name the sources")
        sources = list(self.sources) or [task_id for task_id in portfolio.ids if task_id not in self.targets]
        targets = list(self.targets) or [task_id for task_id in portfolio.ids if task_id not in self.sources]
        for name, ids in (("sources", sources), ("targets", targets)):
            if not ids:
                raise RecipeError(f"{name}: none is left; an adaptation is from at least one task to another")
        made = [portfolio[task_id] for task_id in (*sources, *targets)]
        for task in made:
            for split in ("train", "test"):
                if not task.has_data(split):
                    raise RecipeError(f"task {task.task_id!r} has no {split} data")
        _one_network(made)
        return made[: len(sources)], made[len(sources) :]

    # --- Work

    def work(self, engine: Engine) -> Outcome:
        sources, targets = self._chosen(engine.portfolio)
        tasks = [*sources, *targets]
        for task in tasks:
            task.data("train")  # what the descriptor leaves open is known now
        _one_network(tasks)
        kinds = 3 if self.supervised else 2
        self.context.tell("stage_started", stage="alignment", total=kinds * engine.seeds)
        found: list[dict[str, Any]] = []
        first: nn.Module | None = None
        for number in range(engine.seeds):
            measured, model = self._seed(engine, number, sources, targets)
            found.append(measured)
            first = first or model
        assert first is not None
        result = self._result(engine, sources, targets, found)
        self.context.tell("stage_finished", stage="alignment", result=result)
        return Outcome(result, {"model": first.eval()})

    def rebuild(self, engine: Engine, name: str, result: AlignmentResult) -> nn.Module | None:
        return self._network(engine, engine.portfolio[result.sources[0]], 0)

    def _network(self, engine: Engine, task: Task, number: int) -> nn.Module:
        spec = cast(ModelSpec, self.referred("model") or engine.model)
        return spec.build(task.descriptor, self.context.seed_for("alignment", number, "model")).to(self.context.device)

    def _alignment(self) -> Alignment:
        return cast(Alignment, self.made_of("alignment")[0])

    def _seed(
        self, engine: Engine, number: int, sources: list[Task], targets: list[Task]
    ) -> tuple[dict[str, Any], nn.Module]:
        """(what was measured, the adapted model) of one seed; each training is remembered."""
        model = self._network(engine, sources[0], number)
        plain = copy_of(model)
        measured: dict[str, Any] = {}
        for kind, network in (("source_only", plain), ("adapted", model)):
            key = self._key(engine, number, kind, sources, targets)
            known = self.context.recall("models", key)
            if known is None:
                made = self._trained(network, kind, number, sources, targets)
                told = {"what": f"alignment, {kind}", "tasks": [t.task_id for t in (*sources, *targets)]}
                self.context.remember("models", key, {**told, "found": made}, network.state_dict())
            else:
                network.load_state_dict(known.tensors)
                made = dict(known.payload["found"])
            measured[kind] = made
            self._progress(kind, number, engine.seeds)
        if self.supervised:
            measured["supervised"] = {t.task_id: self._ceiling(engine, t, number) for t in targets}
            self._progress("supervised", number, engine.seeds)
        return measured, model

    def _progress(self, kind: str, number: int, seeds: int) -> None:
        told = f"{kind.replace('_', ' ')}, seed {number + 1} of {seeds}"
        self.context.tell("stage_progress", stage="alignment", detail=told)

    def _key(self, engine: Engine, number: int, kind: str, sources: list[Task], targets: list[Task]) -> str:
        term = [self._alignment().identity(), self.weight] if kind == "adapted" else None
        return key_of(
            "alignment",
            self.results_version,
            kind,
            term,
            [task.fingerprint() for task in sources],
            [task.fingerprint() for task in targets],
            self.referred("model") or engine.model,
            self.budget,
            self.context.seed,
            number,
            self.context.wrapping(),
        )

    def _trained(
        self, network: nn.Module, kind: str, number: int, sources: list[Task], targets: list[Task]
    ) -> dict[str, Any]:
        """Train the network in place: scores by task, the domain accuracy, and the terms."""
        generator = self.context.generator("alignment", number, "batches")
        whole, limit = len(sources) > 1, self.budget.samples
        task, budget = _together(sources, limit), attrs.evolve(self.budget, samples=None)
        values: list[float] = []
        if kind == "source_only":
            fit(network, task, budget, generator, curve_split=self._curve(task))
        else:
            domains = [t.data("train").head(limit).inputs for t in (*(sources if whole else ()), *targets)]
            _, terms = fit_aligned(
                network, task, self._alignment(), domains, budget, generator,
                weight=self.weight, whole=whole, curve_split=self._curve(task),
            )  # fmt: skip
            values = terms.values
        seen = Features(network)
        with seen:
            rows = [seen.all_of(_some(t.data("test").inputs)) for t in (*sources, *targets)]
        return {
            "scores": {t.task_id: evaluate(network, t, "test") for t in (*sources, *targets)},
            "domain_accuracy": domain_accuracy(rows, self.context.generator("alignment", number, "critic")),
            "terms": values,
        }

    def _curve(self, task: Task) -> str | None:
        """Validation data are looked at only where the budget stops by them: the sources', never a target's."""
        return "validation" if self.budget.patience is not None and task.has_data("validation") else None

    def _ceiling(self, engine: Engine, task: Task, number: int) -> float:
        """The score of the same training with the target's labels."""
        seed = self.context.seed_for("alignment", number, "supervised", task.task_id)
        spec = self.referred("model") or engine.model
        key = key_of("alignment, supervised", self.results_version, task.fingerprint(), spec, self.budget, seed)
        known = self.context.recall("models", key)
        if known is not None:
            score: float = structure(known.payload["score"], float, "stored score")
            return score
        network = self._network(engine, task, number)
        fit(network, task, self.budget, torch.Generator().manual_seed(seed), curve_split=self._curve(task))
        score = evaluate(network, task, "test")
        self.context.remember("models", key, {"what": "target supervised", "target": task.task_id, "score": score})
        return score

    def _result(
        self, engine: Engine, sources: list[Task], targets: list[Task], found: list[dict[str, Any]]
    ) -> AlignmentResult:
        metric = metric_of(targets[0])

        def scores(kind: str, tasks: Sequence[Task]) -> dict[str, Interval]:
            return {
                t.task_id: confidence_interval([each[kind]["scores"][t.task_id] for each in found], metric_of(t).range)
                for t in tasks
            }

        def told_apart(kind: str) -> Interval:
            return confidence_interval([each[kind]["domain_accuracy"] for each in found], (0, 1))

        supervised = {
            t.task_id: confidence_interval([each["supervised"][t.task_id] for each in found], metric.range)
            for t in (targets if self.supervised else ())
        }
        steps, terms = _thinned([each["adapted"]["terms"] for each in found], self.budget)
        result = AlignmentResult(
            sources=tuple(t.task_id for t in sources),
            targets=tuple(t.task_id for t in targets),
            alignment=self._alignment().origin,
            weight=self.weight,
            metric=metric.told,
            adapted=scores("adapted", targets),
            source_only=scores("source_only", targets),
            supervised=supervised,
            chances={t.task_id: c for t in targets if (c := chance(t)) is not None},
            sources_adapted=scores("adapted", sources),
            sources_only=scores("source_only", sources),
            domain_accuracy=told_apart("adapted"),
            domain_accuracy_before=told_apart("source_only"),
            domain_chance=1 / (len(sources) + len(targets)),
            steps=steps,
            terms=terms,
            seed=engine.seed,
            seeds=engine.seeds,
            options=unstructure({"alignment": self._alignment().options(), "budget": self.budget,
                                 "model": self.referred("model") or engine.model}),
        )  # fmt: skip
        notes = [
            f"{t}: nothing was gained by aligning, {metric.told} {result.adapted[t].mean:.3f} beside "
            f"{result.source_only[t].mean:.3f} of the source alone"
            for t in result.targets
            if result.adapted[t].mean <= result.source_only[t].mean
        ]
        for each in notes:
            logger().warning("alignment_note", note=each)
        return attrs.evolve(result, notes=tuple(notes))

    # --- What is shown

    @classmethod
    def summary(cls, result: AlignmentResult) -> dict[str, Any]:
        rows: dict[str, Any] = {"alignment": f"{', '.join(result.sources)} to {', '.join(result.targets)}"}
        rows["alignment_by"] = result.alignment
        for target in result.targets:
            rows[f"{target}_adapted"] = result.adapted[target]
            rows[f"{target}_source_only"] = result.source_only[target]
            if target in result.supervised:
                rows[f"{target}_supervised"] = result.supervised[target]
        rows["domain_accuracy"] = result.domain_accuracy
        rows["domain_accuracy_without_alignment"] = result.domain_accuracy_before
        rows["domain_accuracy_of_chance"] = result.domain_chance
        return rows

    @classmethod
    def sections(cls, result: AlignmentResult, graph: TransferGraph) -> list[Section]:
        from crosstask_alignment.report import section  # deferred: it needs plotly

        return [section(result)]


def _one_network(tasks: Sequence[Task]) -> None:
    """RecipeError unless all have inputs of one shape and outputs that mean the same, as far as that is known."""
    first = tasks[0]
    for task in tasks[1:]:
        ours, theirs = first.descriptor, task.descriptor
        names = f"{first.task_id!r} and {task.task_id!r}"
        shapes = (ours.input_shape or ours.input_shapes, theirs.input_shape or theirs.input_shapes)
        if all(shapes) and shapes[0] != shapes[1]:
            raise RecipeError(f"one network learns them all, but inputs of {names} are {shapes[0]} and {shapes[1]}")
        if ours.task_type != theirs.task_type:
            raise RecipeError(f"one network learns them all, but {names} are {ours.task_type} and {theirs.task_type}")
        counts = (ours.output_dim, theirs.output_dim)
        if all(counts) and counts[0] != counts[1]:
            raise RecipeError(
                f"the labels of {names} must mean the same, they have {counts[0]} and {counts[1]} outputs"
            )
        if ours.classes and theirs.classes and ours.classes != theirs.classes:
            raise RecipeError(
                f"the labels of {names} must mean the same, their classes are {_few(ours.classes)} and "
                f"{_few(theirs.classes)}"
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _together(tasks: Sequence[Task], samples: int | None) -> Task:
    """One task of the labelled data of several, of each so many samples."""
    splits = {}
    for split, limit in (("train", samples), ("validation", None)):
        if all(task.has_data(split) for task in tasks):
            parts = [task.data(split).head(limit) for task in tasks]
            targets = torch.cat([p.targets for p in parts])
            splits[split] = TensorData(inputs=joined([p.inputs for p in parts]), targets=targets)  # type: ignore[arg-type]
    return tasks[0].over(**splits)


def _some(inputs: Tensor | MultiInput) -> Tensor | MultiInput:
    """At most `PROBED` samples, evenly over all."""
    step = -(-len(inputs) // PROBED)
    return inputs[::step]


def _thinned(runs: Sequence[Sequence[float]], budget: Budget) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(steps, mean of the terms since the step before) every `budget.evaluate_every` steps, over the seeds."""
    each = budget.evaluate_every * budget.accumulate
    length = min(map(len, runs))
    places = range(0, length, each)
    means = tuple(sum(sum(run[p : p + each]) / len(run[p : p + each]) for run in runs) / len(runs) for p in places)
    return tuple(min(p + each, length) // budget.accumulate for p in places), means
