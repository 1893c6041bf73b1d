"""The stage `federated`: a model learned by sites that keep their data."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import attrs
import torch
from torch import nn

from crosstask.components import Job
from crosstask.descriptors import TensorData
from crosstask.errors import DataError, RecipeError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import copy_of, replace_head, seeded, trainable
from crosstask.learning.objectives import metric_of
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import key_of, same_classes, weights_digest, without_model
from crosstask.logs import logger
from crosstask.options import component, option, unstructure
from crosstask.parts import Part, Reference, part, reference
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Budget, Interval
from crosstask.tasks import Portfolio, Task
from crosstask_federation.contract import Federation
from crosstask_federation.records import FederatedResult
from crosstask_federation.rounds import Course, Plan, Rounds, mean_over, model_of
from crosstask_federation.secure import PlainSum, SecureSum
from crosstask_federation.splits import Split, split_task

KIND = "models"


def _local_budget() -> Budget:
    return Budget(steps=5, batch_size=32, learning_rate=0.05, optimizer="sgd")


@component
class Federated(Stage):
    """A model learned by sites that keep their data, beside one training on all data in one place and beside each site
    alone. Sites are the recipe's tasks, or parts of one task; they work as jobs that carry that site's data alone.

    In each round a share of the sites is asked. `uniform`: so many different ones, which count by their samples
    (McMahan et al. 2017, algorithm 1); `by_size`: drawn by their samples, perhaps twice, each draw counts the same, so
    that the expected sum is that of all sites (Li et al. 2020, FedProx). A site that fails counts for nothing in its
    round, and the record says so. The yardsticks see as many samples as the sites do in all rounds; to have them, the
    stage gathers what in a real federation cannot be gathered (`yardsticks` false leaves them out).

    With `source` the sites begin with that task's own model, a published one: federated transfer. Later stages may
    refer to the server's `model` (of the first seed), where all of it is shared.
    """

    Result: ClassVar[type] = FederatedResult
    provides: ClassVar[Mapping[str, Any]] = {"model": nn.Module}

    federation: Part = part("federation", help="what sites compute and the server makes of it")
    tasks: tuple[str, ...] = option((), help="the sites, or the one task that is split; all tasks by default")
    split: Split | None = option(None, help="how the one task becomes sites")
    source: str | None = option(None, help="a task whose own model the sites begin with; it is no site")
    rounds: int = option(20, ge=1, help="how often sites are asked")
    share: float = option(1.0, gt=0, le=1, help="of the sites, asked in each round")
    sampling: str = option("uniform", choices=("uniform", "by_size"), help="how they are drawn")
    budget: Budget = option(factory=_local_budget, help="of a site's work in one round")
    epochs: int | None = option(None, ge=1, help="passes over a site's data in a round, instead of the budget's steps")
    failures: str = option("continue", choices=("continue", "stop"), help="what a site's failure does to the run")
    evaluate_every: int = option(1, ge=1, help="rounds between two looks at the test data of the sites")
    yardsticks: bool = option(True, help="also train on all data in one place, and each site alone")
    save_every: int = option(5, ge=1, help="rounds after which a killed run can go on")
    secure_sum: Any = option(None, help="in Python: a SecureSum, which hides what each site sends")
    model: ModelSpec | Reference | None = reference(
        ModelSpec, None, help="the network to build, e.g. one that a search has found; the recipe's model by default"
    )

    # --- Before any work

    def check(self, portfolio: Portfolio) -> None:
        if self.secure_sum is not None and not isinstance(self.secure_sum, SecureSum):
            raise RecipeError(
                f"secure_sum must be an object with methods hide and total, got a {type(self.secure_sum).__name__}"
            )
        federation = self._federation()
        if self.secure_sum is not None and "additive" not in federation.capabilities:
            raise RecipeError(
                f"secure_sum: the server of {federation.origin} needs what each site sends, not only their sum"
            )
        if not federation.weighted and self.sampling == "by_size":
            raise RecipeError(f"sampling: {federation.origin} sums what sites have; by_size would count some twice")
        if not federation.whole and "model" in self.taken:
            stays = ", ".join(federation.stays) or "a part"
            raise RecipeError(
                f"a later stage takes 'model', but {stays} of it stays at the sites, so that there is none"
            )
        self._chosen(portfolio)

    def _federation(self) -> Federation:
        return cast(Federation, self.made_of("federation")[0])

    def _chosen(self, portfolio: Portfolio) -> list[Task]:
        """The sites, or the task to split. RecipeError if they cannot learn together."""
        for task_id in (*self.tasks, *([self.source] if self.source is not None else [])):
            if task_id not in portfolio:
                where = "source" if task_id == self.source else "tasks"
                raise RecipeError(f"{where}: no task {task_id!r}{nearest(task_id, portfolio.ids)}")
        if self.source in self.tasks:
            raise RecipeError(f"tasks: {self.source!r} is the source, whose model is published; it cannot be a site")
        names = list(self.tasks) or [task_id for task_id in portfolio.ids if task_id != self.source]
        if len(set(names)) < len(names):
            raise RecipeError(f"tasks: {next(n for n in names if names.count(n) > 1)!r} is named twice")
        if self.split is not None and len(names) != 1:
            raise RecipeError(f"split makes sites of one task: name it in tasks, which means {len(names)}")
        if self.split is None and len(names) < 2:
            raise RecipeError(
                f"tasks: sites are two or more, got {', '.join(names) or 'none'}; to make sites of one task say split"
            )
        made = [portfolio[task_id] for task_id in names]
        for task in made:
            for split in ("train", "test"):
                if not task.has_data(split):
                    raise RecipeError(f"task {task.task_id!r} has no {split} data")
        self._alike(made)
        return made

    def _alike(self, tasks: Sequence[Task]) -> None:
        """RecipeError unless one network (but for heads that stay at the sites) learns them all, as far as is known."""
        first = tasks[0]
        for task in tasks[1:]:
            ours, theirs = first.descriptor, task.descriptor
            names = f"{first.task_id!r} and {task.task_id!r}"
            shapes = (ours.input_shape or ours.input_shapes, theirs.input_shape or theirs.input_shapes)
            if all(shapes) and shapes[0] != shapes[1]:
                raise RecipeError(f"one network learns at all sites: inputs of {names} are {shapes[0]} and {shapes[1]}")
            if "head" in self._federation().stays:
                continue
            other = (
                ours.task_type != theirs.task_type
                or (ours.output_dim and theirs.output_dim and ours.output_dim != theirs.output_dim)
                or (ours.classes and theirs.classes and ours.classes != theirs.classes)
            )
            if other:
                raise RecipeError(
                    f"one head answers at all sites, but outputs of {names} mean other things: let the head stay at "
                    "the sites (fedavg has keep = ['head'] for that), or take tasks with the same classes"
                )

    # --- Work

    def work(self, engine: Engine) -> Outcome:
        sites = self._sites(engine.portfolio)
        if self.source is not None:
            engine.train([self.source])
        total = engine.seeds * self.rounds
        self.context.tell("stage_started", stage="federated", total=total)
        plan = self._plan()
        key = self._key(engine, sites)
        courses: list[Course] = []
        measured: list[dict[str, dict[str, float]]] = []
        model: nn.Module | None = None
        for number in range(engine.seeds):
            networks = self._networks(engine, sites, number)
            rounds = Rounds(self.context, plan, sites, networks, number, key)
            course = rounds.run(functools.partial(self._progress, engine.seeds, number))
            courses.append(course)
            measured.append(self._yardsticks(engine, plan, sites, networks, number, key) if self.yardsticks else {})
            if number == 0:
                model = model_of(plan, next(iter(networks.values())), course.state)
        result = self._result(engine, plan, sites, courses, measured)
        self.context.tell("stage_finished", stage="federated", result=result)
        return Outcome(result, {} if model is None else {"model": model})

    def rebuild(self, engine: Engine, name: str, result: FederatedResult) -> nn.Module | None:
        sites = self._sites(engine.portfolio)
        if self.source is not None:
            engine.train([self.source])
        return next(iter(self._networks(engine, dict([next(iter(sites.items()))]), 0).values()))

    def _progress(self, seeds: int, number: int, course: Course) -> None:
        done = f"round {course.done} of {self.rounds}, seed {number + 1} of {seeds}"
        self.context.tell("stage_progress", stage="federated", detail=done)

    def _plan(self) -> Plan:
        return Plan(
            federation=self._federation(), budget=self.budget, rounds=self.rounds, epochs=self.epochs, share=self.share,
            sampling=self.sampling, failures=self.failures, evaluate_every=self.evaluate_every,
            save_every=self.save_every, secure=self.secure_sum or PlainSum(),
        )  # fmt: skip

    def _sites(self, portfolio: Portfolio) -> dict[str, Task]:
        tasks = self._chosen(portfolio)
        for task in tasks:
            task.data("train")  # what the descriptor leaves open is known now
        self._alike(tasks)
        kinds = {kind_of(task.data("train").inputs): task.task_id for task in tasks}
        if len(kinds) > 1:
            told = ", ".join(f"{kind} of {name!r}" for kind, name in kinds.items())
            raise DataError(f"inputs of all sites must be of one kind, got {told}")
        if self.split is None:
            return {task.task_id: task for task in tasks}
        (task,) = tasks
        made = split_task(task, self.split, self.context.generator("federated", "sites", task.task_id))
        return {each.task_id: each for each in made}

    def _networks(self, engine: Engine, sites: Mapping[str, Task], number: int) -> dict[str, nn.Module]:
        """The network that each site begins with: the same, but for heads of other classes."""
        seed = self.context.seed_for("federated", number, "model")
        spec = cast(ModelSpec, self.referred("model") or engine.model)
        made: dict[str, nn.Module] = {}
        for name, task in sites.items():
            if self.source is None:
                made[name] = spec.build(task.descriptor, seed)
                continue
            source = engine.portfolio[self.source]
            assert source.model is not None  # it was trained
            made[name] = trainable(copy_of(source.model)).cpu()
            if not same_classes(source.descriptor, task.descriptor):
                assert task.descriptor.output_dim is not None  # its data have been read
                replace_head(made[name], task.descriptor.output_dim, seed)
        return made

    def _key(self, engine: Engine, sites: Mapping[str, Task]) -> str:
        source = None
        if self.source is not None:
            trained = engine.portfolio[self.source].model
            assert trained is not None
            source = weights_digest(trained)
        return key_of(
            "federated", self.results_version, self._federation().identity(), unstructure(self.secure_sum),
            {name: task.fingerprint() for name, task in sites.items()}, source,
            self.referred("model") or engine.model, self.budget, self.epochs, self.share, self.sampling, self.failures,
            self.evaluate_every, self.context.seed, self.context.wrapping(),
        )  # fmt: skip

    def _yardsticks(
        self, engine: Engine, plan: Plan, sites: Mapping[str, Task], networks: Mapping[str, nn.Module], number: int,
        key: str,
    ) -> dict[str, dict[str, float]]:  # fmt: skip
        """Test scores by site of one training on all data, and of each site's own, remembered."""
        stored = key_of("federated yardsticks", key, self.rounds, number)
        known = self.context.recall(KIND, stored)
        if known is not None:
            return cast("dict[str, dict[str, float]]", dict(known.payload["scores"]))
        steps = {n: plan.budget_of(len(t.data("train").head(self.budget.samples))).steps for n, t in sites.items()}
        each = {name: max(1, round(count * self.rounds * self.share)) for name, count in steps.items()}
        jobs, of = [], []
        for name, task in sites.items():
            seed = self.context.seed_for("federated", number, "alone", name)
            own = {name: without_model(task, ("test",))}
            args = (networks[name], without_model(task, ("train",)), own, self.budget, each[name], seed)
            jobs.append(Job(_train_and_judge, (*args, self.context.device), label=f"site {name} alone"))
            of.append("alone")
        if "head" not in plan.federation.stays:
            seed = self.context.seed_for("federated", number, "pooled")
            tests = {name: without_model(task, ("test",)) for name, task in sites.items()}
            together, budget = (
                _together(list(sites.values()), self.budget.samples),
                attrs.evolve(self.budget, samples=None),
            )
            first = next(iter(networks.values()))
            args = (first, together, tests, budget, sum(each.values()), seed)
            jobs.append(Job(_train_and_judge, (*args, self.context.device), label="all sites' data in one place"))
            of.append("pooled")
        found: dict[str, dict[str, float]] = {}
        done = dict(self.context.jobs(jobs))
        for place, kind in enumerate(of):
            found.setdefault(kind, {}).update(done[place])
        self.context.remember(KIND, stored, {"what": "yardsticks of a federation", "scores": found})
        return found

    def _result(
        self, engine: Engine, plan: Plan, sites: Mapping[str, Task], courses: Sequence[Course],
        measured: Sequence[Mapping[str, Mapping[str, float]]],
    ) -> FederatedResult:  # fmt: skip
        names = tuple(sites)
        tested = {name: len(task.data("test")) for name, task in sites.items()}
        metrics = {name: metric_of(task) for name, task in sites.items()}
        metric = metrics[names[0]]

        def by_site(of: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
            return {n: confidence_interval([each[n] for each in of], metrics[n].range) for n in names}

        def overall(of: Sequence[Mapping[str, float]]) -> Interval:
            return confidence_interval([mean_over(each, tested) for each in of], metric.range)

        last = [{name: course.scores[name][-1] for name in names} for course in courses]
        kinds = {kind: [each[kind] for each in measured] for kind in ("pooled", "alone") if kind in measured[0]}
        rounds = tuple(courses[0].judged)
        curves = {
            name: tuple(sum(c.scores[name][at] for c in courses) / len(courses) for at in range(len(rounds)))
            for name in names
        }
        federation = plan.federation
        lost = tuple(each for course in courses for each in course.lost)
        score = overall(last)
        result = FederatedResult(
            federation=federation.origin, metric=metric.told, sites=names,
            samples={n: len(t.data("train").head(self.budget.samples)) for n, t in sites.items()}, tested=tested,
            score=score, scores=by_site(last), rounds=rounds,
            curve=tuple(mean_over({n: curves[n][at] for n in names}, tested) for at in range(len(rounds))),
            curves=curves, shares=federation.shares, stays=federation.stays, up=tuple(courses[0].up),
            down=tuple(courses[0].down), answered=tuple(courses[0].answered),
            pooled=overall(kinds["pooled"]) if "pooled" in kinds else None,
            pooled_scores=by_site(kinds["pooled"]) if "pooled" in kinds else {},
            alone=overall(kinds["alone"]) if "alone" in kinds else None,
            alone_scores=by_site(kinds["alone"]) if "alone" in kinds else {},
            lost=lost, source=self.source, seed=engine.seed, seeds=engine.seeds,
            options=unstructure({"federation": federation.options(), "budget": self.budget, "epochs": self.epochs,
                                 "share": self.share, "sampling": self.sampling, "split": self.split,
                                 "model": self.referred("model") or engine.model}),
        )  # fmt: skip
        notes = []
        if lost:
            notes.append(
                f"{len(lost)} answers were lost in {len({(each.round) for each in lost})} rounds; the others went on"
            )
        if result.alone is not None and result.alone.mean >= score.mean:
            notes.append(
                f"nothing was gained by learning together: {metric.told} {score.mean:.3f}, of each site alone "
                f"{result.alone.mean:.3f}"
            )
        for told in notes:
            logger().warning("federation_note", note=told)
        return attrs.evolve(result, notes=tuple(notes))

    # --- What is shown

    @classmethod
    def summary(cls, result: FederatedResult) -> dict[str, Any]:
        rows: dict[str, Any] = {
            "federated": f"{len(result.sites)} sites, {len(result.up)} rounds, {result.federation}",
            "federated_score": result.score,
            "pooled_score": result.pooled,
            "alone_score": result.alone,
            "megabytes_sent": result.sent / 1e6,
        }
        if result.lost:
            rows["answers_lost"] = len(result.lost)
        return rows

    @classmethod
    def sections(cls, result: FederatedResult, graph: TransferGraph) -> list[Section]:
        from crosstask_federation.report import section  # deferred: it needs plotly

        return [section(result)]


def _train_and_judge(
    network: nn.Module, task: Task, tests: Mapping[str, Task], budget: Budget, steps: int, seed: int, device: str
) -> dict[str, float]:
    """A training without rounds, as a job: its test score by site."""
    own = copy_of(network).to(device)
    with seeded(seed):
        fit(own, task, budget, torch.Generator().manual_seed(seed), steps=steps, curve_split=None)
    return {name: evaluate(own, test, "test") for name, test in tests.items()}


def _together(tasks: Sequence[Task], samples: int | None) -> Task:
    """One task of the training data of several, of each so many samples."""
    parts = [task.data("train").head(samples) for task in tasks]
    targets = torch.cat([part.targets for part in parts])
    made = tasks[0].over(train=TensorData(joined([part.inputs for part in parts]), targets))  # type: ignore[arg-type]
    made.model = None
    return made
