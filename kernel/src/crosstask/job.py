"""The main job: a recipe from discovery to joint training, with everything it found written to a folder."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import attrs
import torch

from crosstask.components import Component
from crosstask.context import LocalContext
from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError, RecipeError, RunError
from crosstask.graph import Evidence
from crosstask.learning.continual import run_continual, split_by_classes
from crosstask.learning.fewshot import run_few_shot
from crosstask.learning.search import run_model_search
from crosstask.options import structure, unstructure
from crosstask.parts import Choice
from crosstask.points.meta_learner import MetaLearner
from crosstask.points.observer import Observer
from crosstask.points.search import Search
from crosstask.points.store import Store
from crosstask.recipe import Recipe, recipe_from
from crosstask.records import RunRecord, TransferResult
from crosstask.registry import Registry, Status
from crosstask.store import open_store
from crosstask.tasks import Portfolio


def run_recipe(
    recipe: Recipe | None,
    out: Path,
    *,
    registry: Registry | None = None,
    store: str | None = None,
    resume: bool = False,
    device: str = "cpu",
    observers: Iterable[Observer] = (),
) -> RunRecord:
    """Run a recipe and write run.json, graph.json, graph.graphml, report.html and the store to `out`.

    Every measurement is kept as soon as it is done: a run that is killed and started again repeats none of them, and
    with `resume` it also keeps its id, its start and, if `recipe` is None, its recipe. RecipeError and RunError say
    what is wrong before any work is done: unknown components or options, a folder that cannot be written.
    """
    registry = registry or Registry.installed()
    out = Path(out)
    _make_writable(out)
    opened = open_store(store or str(out / "store.db"), registry=registry)
    try:
        record = _begin(recipe, opened, out, resume)
        job = _Job(recipe_from(record.recipe, record.name), record, opened, out, registry, device)
        return job.run(observers)
    finally:
        opened.close()


def load_run(folder: Path) -> RunRecord:
    """The record of a finished or interrupted run, from its folder. RunError if there is none or it is damaged."""
    path = Path(folder) / "run.json"
    try:
        made: RunRecord = structure(json.loads(path.read_text(encoding="utf-8")), RunRecord, str(path))
    except OSError as error:
        raise RunError(f"no run in {folder}: {path.name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RunError(f"{path} is not a run's record: {error}") from None
    return made


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write to the output folder {out}: {error.strerror or error}") from None


def _begin(recipe: Recipe | None, store: Store, out: Path, resume: bool) -> RunRecord:
    if resume:
        earlier = [payload for _, payload in store.entries("runs") if payload.get("folder") == str(out.resolve())]
        if not earlier:
            raise RunError(f"nothing to resume in {out}: no run was started there with this store")
        record: RunRecord = structure(earlier[-1]["record"], RunRecord, "stored run")
        if recipe is not None and unstructure(recipe) != record.recipe:
            raise RunError(
                f"{out} holds a run of another recipe or other options; leave out --resume to start a new run"
            )
        return attrs.evolve(record, status="running", error=None)
    if recipe is None:
        raise RecipeError("a recipe is needed to start a run")
    return RunRecord(
        run_id=uuid.uuid4().hex[:12],
        name=recipe.name,
        seed=recipe.seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=unstructure(recipe),
    )


def engine_for(
    recipe: Recipe,
    registry: Registry,
    store: Store | None,
    device: str = "cpu",
    observers: Iterable[Observer] = (),
    run_id: str = "",
) -> TransferEngine:
    """An engine as a recipe describes it, with its observers and wrappers, and no tasks yet."""

    def create(point: str, choice: Choice) -> Any:
        return registry.create(point, choice.use, choice.options)

    listening = [create("observer", c) for c in recipe.observers] + [create("wrapper", c) for c in recipe.wrappers]
    return TransferEngine(
        model=recipe.model,
        train=recipe.train,
        budget=recipe.budget,
        seed=recipe.seed,
        seeds=recipe.seeds,
        device=device,
        store=store,
        registry=registry,
        executor=create("executor", recipe.executor),
        discoverers=[create("discovery", c) for c in recipe.discovery],
        observers=[*observers, *listening],
        run_id=run_id,
    )


def load_portfolio(recipe: Recipe, engine: TransferEngine) -> Portfolio:
    """The recipe's tasks. RecipeError if a stage names a task that is not among them."""
    source = engine.run.component("source", recipe.source.use, recipe.source.options)
    portfolio: Portfolio = engine.run.call(source, "load")
    portfolio.check()
    for part, task_id in _named_tasks(recipe):
        try:
            portfolio[task_id]
        except CrosstaskError as error:
            raise RecipeError(f"{part}: {error}") from None
    return portfolio


def _named_tasks(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(where it is named, task id) of every task that a stage names."""
    if recipe.curriculum:
        yield "curriculum.target", recipe.curriculum.target
    if recipe.synthesis:
        yield "synthesis.task", recipe.synthesis.task
    if recipe.search:
        yield "search.task", recipe.search.task
    for part in ("multitask", "distillation", "few_shot", "continual"):
        stage = getattr(recipe, part)
        for task_id in stage.tasks if stage else ():
            yield f"{part}.tasks", task_id


def check_requirements(recipe: Recipe, registry: Registry) -> None:
    """RecipeError if a plugin that the recipe requires is missing, unusable or of another version."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    for name, wanted in recipe.requires.items():
        try:
            allowed = SpecifierSet(wanted)
        except InvalidSpecifier:
            raise RecipeError(f"requires.{name}: {wanted!r} is not a version specifier such as '>=1.2,<2'") from None
        found = [r for r in registry.plugins() if name in (r.name, r.distribution)]
        usable = [r for r in found if r.status is Status.OK]
        if not usable:
            why = f"{found[0].origin} is {found[0].status.value}: {found[0].reason}" if found else "it is not installed"
            told = "" if found else f". Try: pip install '{name}{wanted}'"
            raise RecipeError(f"the recipe requires plugin {name}{' ' if wanted else ''}{wanted}; {why}{told}")
        has = usable[0]
        if wanted and not (has.version and has.version in allowed):
            raise RecipeError(
                f"the recipe requires plugin {name} {wanted}; version {has.version or 'unknown'} is installed. "
                f"Try: pip install '{has.distribution}{wanted}'"
            )


def check_components(recipe: Recipe, registry: Registry) -> None:
    """Create every component once, so that a wrong name or option is found before hours of work, not after."""
    choices = [("transfer", recipe.transfer), ("source", recipe.source)]
    if recipe.curriculum:
        choices.append(("curriculum", recipe.curriculum.planner))
    if recipe.synthesis:
        choices.append(("synthesis", recipe.synthesis.synthesizer))
    if recipe.multitask:
        choices += [("balancer", recipe.multitask.balancer), ("sharing", recipe.multitask.sharing)]
        if recipe.multitask.sampler:
            choices.append(("sampler", recipe.multitask.sampler))
    if recipe.distillation:
        choices.append(("distillation", recipe.distillation.distiller))
    if recipe.few_shot:
        choices.append(("meta_learner", recipe.few_shot.learner))
    if recipe.continual:
        if recipe.continual.parts and len(recipe.continual.tasks) != 1:
            raise RecipeError(
                f"continual.parts splits one task by its classes: name it in continual.tasks, which names "
                f"{len(recipe.continual.tasks)}"
            )
        choices += [("continual", choice) for choice in recipe.continual.strategies]
    if recipe.search:
        choices.append(("search", recipe.search.search))
    choices += [("discovery", choice) for choice in recipe.discovery]
    context = LocalContext(registry=registry)
    for point, choice in choices:
        _check_parts(context.resolve(point, choice))


def _check_parts(made: Component) -> None:
    for parts in made.all_parts().values():
        for part in parts:
            _check_parts(part)


class _Job:
    """One run of a recipe: its engine, and the record as it grows."""

    def __init__(
        self, recipe: Recipe, record: RunRecord, store: Store, out: Path, registry: Registry, device: str
    ) -> None:
        self.recipe, self.record, self.store, self.out = recipe, record, store, out
        self.registry, self.device = registry.preferring(recipe.prefer), device

    def run(self, observers: Iterable[Observer]) -> RunRecord:
        started = time.perf_counter()
        recipe = self.recipe
        check_requirements(recipe, self.registry)
        check_components(recipe, self.registry)
        self.engine = engine_for(recipe, self.registry, self.store, self.device, observers, self.record.run_id)
        error: BaseException | None = None
        self._update(versions=self._versions())
        try:
            with self.engine.run:
                self.engine.run.tell("run_started", record=self.record)
                self._work()
            self._update(status="finished")
        except BaseException as caught:
            error = caught
            interrupted = isinstance(caught, KeyboardInterrupt)
            self._update(status="interrupted" if interrupted else "failed", error=f"{type(caught).__name__}: {caught}")
            raise
        finally:
            self._update(seconds=self.record.seconds + time.perf_counter() - started)
            self._write()
            self.engine.run.tell("run_finished", record=self.record, error=error)
        return self.record

    def _versions(self) -> dict[str, str]:
        found = {"python": platform.python_version(), "torch": torch.__version__}
        return found | {r.distribution: r.version for r in self.registry.plugins() if r.status is Status.OK}

    def _update(self, **changes: Any) -> None:
        """Change the record and keep it, so that a killed run can be found again."""
        self.record = attrs.evolve(self.record, **changes)
        payload = {"folder": str(self.out.resolve()), "record": unstructure(self.record)}
        self.store.put("runs", self.record.run_id, payload, run_id=self.record.run_id, replace=True)

    def _work(self) -> None:
        recipe, engine = self.recipe, self.engine
        portfolio = load_portfolio(recipe, engine)
        engine.register(portfolio)
        if recipe.discovery or recipe.curriculum or recipe.synthesis or recipe.distillation:
            engine.train()
        for stage in (
            "discovery", "curriculum", "synthesis", "multitask", "distillation", "few_shot", "continual", "search",
        ):  # fmt: skip
            if getattr(recipe, stage):
                getattr(self, f"_{stage}")()

    def _discovery(self) -> None:
        started = time.perf_counter()
        self.engine.discover()
        skipped = {d.origin: list(s) for d in self.engine.discoverers if (s := getattr(d, "skipped", None))}
        metrics = self.engine.get_transfer_graph_metrics()
        measured = [edge for edge in self.engine.graph.edges() if edge.evidence is Evidence.MEASURED]
        found = {
            "metrics": metrics,
            "measured": [
                {"source": e.source, "target": e.target, "mean": e.transfer_coefficient, "low": e.low, "high": e.high}
                for e in measured
            ],
            "gives": _means((edge.source, edge.transfer_coefficient) for edge in measured),
            "receives": _means((edge.target, edge.transfer_coefficient) for edge in measured),
            "skipped": skipped,
            "seconds": time.perf_counter() - started,
        }
        self._update(discovery=unstructure(found))
        self._summarise(
            tasks=len(self.engine.portfolio),
            unseen_tasks=len(self.engine.portfolio.unseen),
            measured_pairs=len(measured),
            pairs_left_out=sum(map(len, skipped.values())),
            mean_coefficient=metrics["mean_coefficient"],
            strongest_helper=metrics["hubs"][0] if metrics["hubs"] else None,
            negative_transfer_pairs=len(self.engine.graph.negative_transfer()),
        )

    def _curriculum(self) -> None:
        part, engine = self.recipe.curriculum, self.engine
        assert part is not None
        planner = self._component("curriculum", part.planner)
        method = self._component("transfer", self.recipe.transfer)
        curriculum = engine.generate_curriculum(part.target, planner, part.max_tasks)
        result = engine.run_curriculum(curriculum, method, planner=planner)
        transfers: list[TransferResult] = []
        best = engine.graph.best_sources(part.target, 1)
        if best and engine.portfolio[best[0].source].has_data():
            transfers.append(engine.transfer_knowledge(best[0].source, part.target, method, samples=True))
        explained = [engine.explain_transfer(t.source, t.target, method) for t in transfers if part.explain]
        baselines = {"from scratch": result.stages[-1].scratch_score}
        if transfers:
            baselines[f"best single source: {transfers[0].source}"] = transfers[0].score
        self._update(curriculum=result, curriculum_baselines=unstructure(baselines), transfers=tuple(transfers))
        self._update(attributions=tuple(explained))
        last = result.stages[-1]
        self._summarise(
            target=part.target,
            curriculum=" → ".join(result.curriculum.task_sequence),
            target_with_curriculum=last.score,
            target_from_scratch=last.scratch_score,
            curriculum_gain=last.gain,
        )
        if transfers:
            self._summarise(
                best_source=transfers[0].source,
                target_from_best_source=transfers[0].score,
                convergence_speed_gain=transfers[0].convergence_speed_gain,
                sample_efficiency_gain=transfers[0].sample_efficiency_gain,
            )
        for found in explained:
            self._summarise(carried_by=found.carrier.block if found.carrier else "no single layer")

    def _synthesis(self) -> None:
        part, engine = self.recipe.synthesis, self.engine
        assert part is not None
        engine.run.tell("stage_started", stage="synthesis", total=1)
        maker = self._component("synthesis", part.synthesizer)
        task = engine.portfolio[part.task]
        inputs = task.data("train").inputs if task.has_data() else None
        result = engine.judge_synthesis(engine.synthesize_zero_shot_model(part.task, maker, inputs), part.task)
        self._update(synthesis=result)
        engine.run.tell("stage_finished", stage="synthesis", result=result)
        self._summarise(
            unseen_task=part.task,
            zero_shot_score=result.score,
            full_training_score=result.full_training_score,
            zero_shot_share=_ratio(result.score, result.full_training_score),
        )

    def _multitask(self) -> None:
        part, engine = self.recipe.multitask, self.engine
        assert part is not None
        balancer = self._component("balancer", part.balancer)
        sharing = self._component("sharing", part.sharing)
        sampler = self._component("sampler", part.sampler) if part.sampler else None
        _, result = engine.train_together(part.tasks, balancer, sharing, sampler, part.budget)
        self._update(multitask=result)
        mean = sum(result.scores.values()) / len(result.scores)
        alone = sum(result.single_task_scores.values()) / len(result.single_task_scores)
        shares = result.conflicts.get("conflict_share", ())
        self._summarise(
            trained_together=", ".join(result.tasks),
            joint_mean_score=mean,
            single_task_mean_score=alone,
            joint_gain=mean - alone,
            mean_conflict_share=sum(shares) / len(shares) if shares else None,
        )

    def _distillation(self) -> None:
        part, engine = self.recipe.distillation, self.engine
        assert part is not None
        engine.run.tell("stage_started", stage="distillation", total=1)
        ids = part.tasks or tuple(task.task_id for task in engine.portfolio if task.model is not None)
        chosen = [engine.portfolio[task_id] for task_id in ids]
        shapes = {task.descriptor.input_shape for task in chosen}
        samples = torch.cat([task.data("train").inputs for task in chosen]) if len(shapes) == 1 else None
        knowledge = engine.distill(ids, self._component("distillation", part.distiller), samples).knowledge
        self._update(knowledge=knowledge)
        engine.run.tell("stage_finished", stage="distillation", result=knowledge)
        self._summarise(
            distilled_from=", ".join(knowledge.source_tasks), generalization_score=knowledge.generalization_score
        )

    def _few_shot(self) -> None:
        part, engine = self.recipe.few_shot, self.engine
        assert part is not None
        learner = cast(MetaLearner, self._component("meta_learner", part.learner))
        chosen = [engine.portfolio[task_id] for task_id in part.tasks]
        engine.run.tell("stage_started", stage="few_shot", total=part.steps)
        result = run_few_shot(
            engine.run, learner, self.recipe.model, chosen[0] if len(chosen) == 1 else chosen or engine.portfolio,
            ways=part.ways, shots=part.shots, queries=part.queries, steps=part.steps, meta_batch=part.meta_batch,
            test_episodes=part.test_episodes, held_out=part.held_out or None,
        )  # fmt: skip
        self._update(few_shot=result)
        engine.run.tell("stage_finished", stage="few_shot", result=result)
        self._summarise(
            few_shot=f"{result.ways}-way {result.shots}-shot",
            few_shot_learner=result.learner,
            few_shot_accuracy=result.accuracy,
            few_shot_untrained=result.untrained_accuracy,
        )

    def _continual(self) -> None:
        part, engine = self.recipe.continual, self.engine
        assert part is not None
        tasks = [engine.portfolio[task_id] for task_id in part.tasks] or list(engine.portfolio)
        result = run_continual(
            engine.run, [self._component("continual", choice) for choice in part.strategies], self.recipe.model,
            split_by_classes(tasks[0], part.parts) if part.parts else tasks, part.scenario, epochs=part.epochs,
            learning_rate=part.learning_rate, optimizer=part.optimizer, batch_size=part.batch_size,
            grow=part.grow, seeds=self.recipe.seeds,
        )  # fmt: skip
        self._update(continual=result)
        naive = result.naive
        self._summarise(
            continual=f"{len(result.tasks)} tasks, {result.scenario}-incremental",
            continual_strategies=", ".join(result.strategies) or "none",
            continual_accuracy=result.scores.accuracy,
            continual_accuracy_without=naive.accuracy if naive else None,
            continual_accuracy_of_joint_training=result.joint,
            forgetting=result.scores.forgetting,
            forgetting_without=naive.forgetting if naive else None,
        )

    def _search(self) -> None:
        part, engine = self.recipe.search, self.engine
        assert part is not None
        search = cast(Search, self._component("search", part.search))
        result = run_model_search(
            engine.run, search, part.models, engine.portfolio[part.task], part.budget or self.recipe.train,
            part.evaluations, default=self.recipe.model, seeds=self.recipe.seeds, graph=engine.graph,
        )  # fmt: skip
        assert result.best is not None  # a search without one has raised
        self._update(search=result)
        self._summarise(
            search=result.search,
            searched_task=part.task,
            best_found=", ".join(f"{name} {value}" for name, value in result.best.point.items()),
            found_score=result.score,
            default_score=result.default_score,
            failed_trials=result.failed or None,
        )

    def _component(self, point: str, choice: Choice) -> Component:
        return self.engine.run.component(point, choice.use, choice.options)

    def _summarise(self, **figures: Any) -> None:
        self._update(summary={**self.record.summary, **unstructure(figures)})

    def _write(self) -> None:
        from crosstask.report import write_report

        text = json.dumps(unstructure(self.record), indent=1, allow_nan=False)
        try:
            (self.out / "run.json").write_text(text, encoding="utf-8")
            if self.engine.graph.task_ids:
                self.engine.export_transfer_graph(self.out / "graph.json")
                self.engine.export_transfer_graph(self.out / "graph.graphml")
                write_report(self.record, self.engine.graph, self.out / "report.html")
        except OSError as error:
            raise RunError(f"cannot write to {self.out}: {error.strerror or error}") from None


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean coefficient per task."""
    by_task: dict[str, list[float]] = {}
    for task_id, value in values:
        by_task.setdefault(task_id, []).append(value)
    return {task_id: sum(known) / len(known) for task_id, known in by_task.items()}


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
