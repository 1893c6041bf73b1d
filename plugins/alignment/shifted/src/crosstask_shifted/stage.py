"""The stage `shift`: which transfers stay good where the data shift."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Job
from crosstask.context import LocalContext
from crosstask.errors import DataError, RecipeError, nearest
from crosstask.graph import TransferGraph
from crosstask.learning.inputs import kind_of
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.modules import copy_of, seeded
from crosstask.learning.objectives import chance, metric_of
from crosstask.learning.training import device_of, fit, judged, predict
from crosstask.learning.transferring import (
    drawn,
    fresh_model,
    key_of,
    receive,
    same_classes,
    scratch_seeds,
    source_digest,
    unfit_pair,
    without_model,
)
from crosstask.logs import logger
from crosstask.options import component, option, unstructure
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.points.transfer import Transfer
from crosstask.records import Budget, Interval
from crosstask.tasks import Portfolio, Task
from crosstask_alignment.contract import Alignment
from crosstask_alignment.training import check_conditional, fit_aligned
from crosstask_shifted.attacks import pgd
from crosstask_shifted.corruptions import CORRUPTIONS, corrupted, fitting
from crosstask_shifted.ranges import Range, range_of
from crosstask_shifted.records import ShiftResult, ShiftRow

KIND = "shifts"
ADVERSARIAL = "adversarial"
SEEN = 3
"""The severity of the shifts to which features are aligned."""


@attrs.frozen(eq=False)
class Trial:
    """One way to learn a target, and on what it is judged: what a job is given."""

    target: Task
    model: nn.Module
    """The source's; of a training from scratch, that of whose architecture the network is."""
    budget: Budget
    shifts: tuple[str, ...]
    severities: tuple[int, ...]
    radius: float
    steps: int
    restarts: int
    method: Transfer | None = None
    keep_head: bool = False
    alignment: Alignment | None = None
    weight: float = 0.0
    domain: Any = None
    """Inputs with which the target's are aligned."""


@component
class Shift(Stage):
    """Each transfer from a source to a target is judged on shifted versions of the target's test data, beside training
    from scratch with the same budget, samples and seeds: so one sees which transfers stay good.

    Shifts are corruptions with severities of 1 to 5 (those of Hendrycks, Dietterich 2019, where they have them; all
    models of a seed see the same) and, with a `radius`, the worst case that projected gradient ascent finds in a ball
    around each input (Madry et al. 2018), which is another for each model. With an `alignment` a further row for each
    source fine-tunes with that term between the target's training inputs and those of the source, or shifted versions
    of themselves, whose labels are not used.
    """

    Result: ClassVar[type] = ShiftResult

    sources: tuple[str, ...] = option((), help="tasks whose models are transferred; by default all but the targets")
    targets: tuple[str, ...] = option((), help="tasks to learn; by default all but the sources")
    methods: tuple[Part, ...] = part("transfer", (), help="how; the recipe's method by default")
    corruptions: tuple[str, ...] = option((), help="by default all that the inputs can have")
    severities: tuple[int, ...] = option((1, 3, 5), ge=1, le=5, help="how much, from 1 to 5, in rising order")
    radius: float = option(0.01, ge=0, le=0.2, help="of the ball at severity 1, as a part of the range; 0: no attack")
    attack_steps: int = option(10, ge=1, help="of each attack")
    restarts: int = option(1, ge=1, help="random points from which an attack begins")
    alignment: Part | None = part("alignment", None, help="also fine-tune with this term")
    align_with: str = option("shifted", choices=("shifted", "source"), help="the other side of the term")
    weight: float = option(0.1, ge=0, help="of the term, beside the target's loss")

    # --- Before any work

    def check(self, portfolio: Portfolio) -> None:
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise RecipeError(f"corruptions: there is no {name!r}{nearest(name, CORRUPTIONS)}")
        if not self.severities or list(self.severities) != sorted(set(self.severities)):
            raise RecipeError(f"severities must be different and rise, got {list(self.severities)}")
        _, targets = self._chosen(portfolio)
        if self.alignment is not None:
            try:
                for task in targets:
                    check_conditional(self._alignment(), task)
            except DataError as error:
                raise RecipeError(f"alignment: {error}") from None

    def _chosen(self, portfolio: Portfolio) -> tuple[list[Task], list[Task]]:
        """(sources, targets)"""
        for name in ("sources", "targets"):
            ids = getattr(self, name)
            for task_id in ids:
                if task_id not in portfolio:
                    raise RecipeError(f"{name}: no task {task_id!r}{nearest(task_id, portfolio.ids)}")
            if twice := [task_id for task_id in ids if ids.count(task_id) > 1]:
                raise RecipeError(f"{name}: {twice[0]!r} is named twice")
        if not self.sources and not self.targets:
            raise RecipeError("targets: say which tasks are learned (the others are sources), or name the sources")
        sources = list(self.sources) or [t for t in portfolio.ids if t not in self.targets]
        targets = list(self.targets) or [t for t in portfolio.ids if t not in self.sources]
        if not targets or not [s for s in sources if targets != [s]]:
            raise RecipeError("targets: at least one task is learned from at least one other")
        for task_id in targets:
            for split in ("train", "test"):
                if not portfolio[task_id].has_data(split):
                    raise RecipeError(f"task {task_id!r} has no {split} data")
        return [portfolio[t] for t in sources], [portfolio[t] for t in targets]

    def _alignment(self) -> Alignment:
        return cast(Alignment, self.made_of("alignment")[0])

    # --- Work

    def work(self, engine: Engine) -> Outcome:
        sources, targets = self._chosen(engine.portfolio)
        engine.train([task.task_id for task in sources])
        methods = cast("list[Transfer]", self.made_of("methods")) or [engine.method()]
        for method in methods:
            method.all_parts()  # made here: another process has no run to find them in
        trials = [trial for target in targets for trial in self._trials(engine, methods, sources, target)]
        self.context.tell("stage_started", stage="shift", total=len(trials) * engine.seeds)
        found = self._measured(engine, trials)
        result = self._result(engine, trials, found)
        self.context.tell("stage_finished", stage="shift", result=result)
        return Outcome(result)

    def _trials(
        self, engine: Engine, methods: Sequence[Transfer], sources: Sequence[Task], target: Task
    ) -> list[tuple[str | None, str, Trial]]:
        """(source, method, trial): that from scratch first. DataError where no source fits, or a shift does not."""
        range_of(target)
        inputs = target.data("test").inputs
        shifts = self.corruptions or tuple(fitting(inputs))
        for name in shifts:
            if name not in fitting(inputs):
                told = nearest(name, fitting(inputs))
                raise DataError(f"task {target.task_id!r}: its inputs cannot have the corruption {name!r}{told}")
        fit_in = []
        for source in sources:
            if source is target:
                continue
            if reason := unfit_pair(source, target, engine.portfolio, ("train", "test")):
                logger().info("shift_left_out", source=source.task_id, target=target.task_id, why=reason)
                continue
            fit_in.append(source)
        if not fit_in:
            raise DataError(f"task {target.task_id!r}: no source has a model that fits it")
        own = without_model(target)
        rows: list[tuple[str | None, str, Trial]] = []
        for source in fit_in:
            assert source.model is not None  # it fits
            keep = same_classes(source.descriptor, target.descriptor)
            base = Trial(
                own, source.model, engine.budget, (*shifts, *([ADVERSARIAL] if self.radius else [])), self.severities,
                self.radius, self.attack_steps, self.restarts, keep_head=keep,
            )  # fmt: skip
            if not rows:
                rows.append((None, "scratch", base))
            rows += [(source.task_id, _short(method), attrs.evolve(base, method=method)) for method in methods]
            if self.alignment is not None:
                name = f"{_short(self._alignment())} to {self.align_with}"
                more = attrs.evolve(
                    base, alignment=self._alignment(), weight=self.weight, domain=self._domain(source, target)
                )
                rows.append((source.task_id, name, more))
        return rows

    def _domain(self, source: Task, target: Task) -> Any:
        """Inputs with which the target's are aligned; None: shifted ones, which each seed draws."""
        if self.align_with == "shifted":
            return None
        if not source.has_data():
            raise DataError(f"task {source.task_id!r} has no training data: an alignment needs its inputs")
        theirs, ours = source.data("train").inputs, target.data("train").inputs
        if kind_of(theirs) != kind_of(ours):
            raise DataError(
                f"inputs of {source.task_id!r} and {target.task_id!r} differ in kind ({kind_of(theirs)} and "
                f"{kind_of(ours)}): their features cannot be aligned"
            )
        return theirs

    def _domain_print(self, engine: Engine, source: str | None, trial: Trial) -> str | None:
        """What the inputs of a source are, where features are aligned with them: its model does not tell them."""
        return None if trial.domain is None or source is None else engine.portfolio[source].fingerprint()

    def _measured(
        self, engine: Engine, trials: Sequence[tuple[str | None, str, Trial]]
    ) -> list[list[dict[str, float]]]:
        """By trial and seed: the score by shift and severity; remembered."""
        jobs, of = [], []
        for place, (source, name, trial) in enumerate(trials):
            for number, seed in enumerate(scratch_seeds(self.context, trial.target, engine.seeds)):
                shift = self.context.seed_for("shift", trial.target.task_id, number)  # the same for all ways
                key = key_of(
                    "shift", self.results_version, trial.target.fingerprint(), source_digest(trial.model),
                    trial.method.identity() if trial.method else name, trial.alignment and trial.alignment.identity(),
                    trial.weight, self._domain_print(engine, source, trial), source, trial.keep_head, trial.budget,
                    trial.shifts, trial.severities,
                    trial.radius, trial.steps, trial.restarts, seed, shift, self.context.wrapping(),
                )  # fmt: skip
                label = f"{source or 'scratch'} -> {trial.target.task_id} under shift, seed {number}"
                args = (trial, seed, shift, self.context.device)
                jobs.append(Job(measure, args, label=label, key=(KIND, key)))
                of.append((place, number, key))
        found: list[list[dict[str, float]]] = [[{} for _ in range(engine.seeds)] for _ in trials]
        for at, answer in self.context.jobs(jobs):
            place, number, key = of[at]
            if not isinstance(answer, dict):
                answer = answer.payload["scores"]
            else:
                self.context.remember(KIND, key, {"what": "scores under shift", "scores": answer})
            found[place][number] = dict(answer)
            source, name, trial = trials[place]
            detail = f"{trial.target.task_id}: {name}{f' from {source}' if source else ''}, seed {number + 1}"
            self.context.tell("stage_progress", stage="shift", detail=detail)
        return found

    def _result(
        self, engine: Engine, trials: Sequence[tuple[str | None, str, Trial]], found: list[list[dict[str, float]]]
    ) -> ShiftResult:
        rows = []
        scratch: dict[str, list[dict[str, float]]] = {}
        for (source, name, trial), runs in zip(trials, found, strict=True):
            target, metric = trial.target, metric_of(trial.target)
            if source is None:
                scratch[target.task_id] = runs

            def score(key: str, of: Sequence[Mapping[str, float]] = runs, at: Any = metric) -> Interval:
                return confidence_interval([run[key] for run in of], at.range)

            def gain(
                key: str, of: Sequence[Mapping[str, float]] = runs, at: Any = metric, t: str = target.task_id
            ) -> Interval:
                pairs = zip(of, scratch[t], strict=True)
                return confidence_interval([run[key] - plain[key] for run, plain in pairs], at.gains)

            keys = {shift: [f"{shift} {severity}" for severity in trial.severities] for shift in trial.shifts}
            rows.append(
                ShiftRow(
                    target=target.task_id, source=source, method=name, clean=score(_CLEAN),
                    scores={shift: tuple(map(score, own)) for shift, own in keys.items()},
                    gain=None if source is None else gain(_CLEAN),
                    gains={} if source is None else {shift: tuple(map(gain, own)) for shift, own in keys.items()},
                )
            )  # fmt: skip
        first = trials[0][2]
        targets = {trial.target.task_id: trial.target for _, _, trial in trials}
        return ShiftResult(
            metric=metric_of(first.target).told, severities=self.severities, shifts=first.shifts, rows=tuple(rows),
            chances={name: c for name, task in targets.items() if (c := chance(task)) is not None}, radius=self.radius,
            notes=noted(rows), seed=engine.seed, seeds=engine.seeds,
            options=unstructure({"budget": engine.budget, "weight": self.weight, "align_with": self.align_with,
                                 "attack_steps": self.attack_steps, "restarts": self.restarts}),
        )  # fmt: skip

    # --- What is shown

    @classmethod
    def summary(cls, result: ShiftResult) -> dict[str, Any]:
        rows: dict[str, Any] = {"shift": f"{', '.join(result.shifts)}; severities {list(result.severities)}"}
        for target in dict.fromkeys(row.target for row in result.rows):
            own = [row for row in result.rows if row.target == target]
            best = max(own, key=lambda row: row.mean)
            rows[f"{target}_scratch_under_shift"] = next(row.mean for row in own if row.source is None)
            rows[f"{target}_best_under_shift"] = f"{best.name}: {best.mean:.3f}"
        return rows

    @classmethod
    def sections(cls, result: ShiftResult, graph: TransferGraph) -> list[Section]:
        from crosstask_shifted.report import section  # deferred: it needs plotly

        return [section(result)]


_CLEAN = "clean"


def noted(rows: Sequence[ShiftRow]) -> tuple[str, ...]:
    """What should be known, and is logged: transfers that help on clean data, and hurt beyond doubt under a shift."""
    notes = tuple(
        f"{row.source} to {row.target} by {row.method}: better than scratch as the data are, worse under "
        f"{', '.join(row.turns)}"
        for row in rows
        if row.gain is not None and row.gain.mean > 0 and row.turns
    )
    for each in notes:
        logger().warning("shift_note", note=each)
    return notes


def _short(made: Any) -> str:
    """A component's name in tables."""
    return str(made.name.rpartition(":")[2])


def measure(trial: Trial, seed: int, shift: int, device: str) -> dict[str, float]:
    """The scores of one way to learn a target, as a job: clean, and by shift and severity."""
    task = drawn(trial.target, trial.budget.samples, seed)
    known = range_of(task)
    with seeded(seed):
        model = _learned(trial, task, known, seed, shift, device)
    test = task.data("test")
    inputs = test.inputs
    found = {_CLEAN: judged(predict(model, inputs), task, "test")}
    for name in trial.shifts:
        for severity in trial.severities:
            own = torch.Generator().manual_seed(_seed(shift, name, severity))
            if name == ADVERSARIAL:
                moved = _attacked(trial, model, task, known, severity, own)
            else:
                moved = corrupted(name, inputs, severity, known, own)
            found[f"{name} {severity}"] = judged(predict(model, moved), task, "test")
    return found


def _learned(trial: Trial, task: Task, known: Range, seed: int, shift: int, device: str) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    if trial.method is None and trial.alignment is None:
        model = fresh_model(trial.model, task, seed).to(device)
        fit(model, task, trial.budget, generator)
        return model
    model, _, _ = receive(trial.model, task, seed, trial.keep_head)
    model.to(device)
    source = copy_of(trial.model).to(device)
    if trial.alignment is None:
        method = copy.copy(trial.method)
        assert method is not None
        method.bind(LocalContext(seed=seed, device=device))
        method.learn(model, source, task, trial.budget, generator)
        return model
    alignment = copy.deepcopy(trial.alignment)
    alignment.bind(LocalContext(seed=seed, device=device))
    domain = trial.domain
    if domain is None:
        inputs = task.data("train").inputs
        names = [name for name in trial.shifts if name != ADVERSARIAL]
        drawn_by = torch.Generator().manual_seed(_seed(shift, "domain", 0))
        place = torch.arange(len(inputs)) % len(names)  # each input with one of the shifts
        domain = inputs.clone()
        for number, name in enumerate(names):
            domain[place == number] = corrupted(name, inputs[place == number], SEEN, known, drawn_by)
    fit_aligned(model, task, alignment, [domain], trial.budget, generator, weight=trial.weight)
    return model


def _attacked(
    trial: Trial, model: nn.Module, task: Task, known: Range, severity: int, generator: torch.Generator
) -> Tensor:
    """The test inputs, each moved against the model."""
    test, device, found = task.data("test"), device_of(model), []
    inputs = test.inputs
    for points, targets in zip(inputs.split(1024), test.targets.split(1024), strict=True):
        moved = pgd(
            model, task, points.to(device), targets.to(device), severity * trial.radius * known.width, known, generator,
            steps=trial.steps, restarts=trial.restarts,
        )  # fmt: skip
        found.append(moved.to(inputs.device))
    return torch.cat(found)


def _seed(shift: int, name: str, severity: int) -> int:
    return int(key_of(shift, name, severity)[:15], 16)
