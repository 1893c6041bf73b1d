"""What a run produces: immutable values with a JSON round trip that carry the seed and the options that made them."""

from __future__ import annotations

import enum
from typing import Any, Protocol, Self

import attrs

from crosstask.errors import OptionError, PluginError, nearest
from crosstask.options import option, record, structure
from crosstask.showing import Shown


@record
class Interval:
    """A mean over seeds with its two-sided 95 % confidence interval (Student's t).

    As text `0.871 [0.850, 0.892]`; a difference has its sign where one asks for it: `f"{gain:+}"`. Any format of a
    number is one of all three: `f"{score:.1%}"`.
    """

    mean: float
    low: float
    high: float
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        each = f"{spec}.3f" if spec in ("", "+") else spec
        return f"{self.mean:{each}} [{self.low:{each}}, {self.high:{each}}]"


@record
class Budget:
    """What one training may spend, and how it spends it."""

    steps: int = option(200, ge=1, help="optimiser steps")
    batch_size: int = option(32, ge=1, help="samples per step")
    learning_rate: float = option(1e-3, gt=0, help="step size")
    optimizer: str = option("adam", choices=("adam", "adamw", "sgd"), help="torch.optim optimiser")
    weight_decay: float = option(0.0, ge=0, help="L2 decay")
    samples: int | None = option(None, ge=1, help="use only so many training samples (all by default)")
    evaluate_every: int = option(20, ge=1, help="steps between two points of the learning curve")
    schedule: str = option(
        "constant", choices=("constant", "linear", "cosine"), help="of the learning rate after the warm-up: to zero"
    )
    warmup: int = option(0, ge=0, help="steps in which the learning rate rises from zero")
    clip: float | None = option(None, gt=0, help="largest norm of the gradient; longer ones are shortened")
    accumulate: int = option(1, ge=1, help="batches whose gradients make one step")
    precision: str = option(
        "float32", choices=("float32", "bfloat16", "float16"), help="of forward passes in training (autocast)"
    )
    patience: int | None = option(
        None, ge=1, help="stop after so many points of the curve without a better one, and go back to the best"
    )


@record
class LearningCurve:
    """A metric as training went on: step numbers and values, higher is better."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def final(self) -> float:
        """The last value."""
        return self.values[-1]

    def first_reaching(self, level: float) -> int | None:
        """The first recorded step whose value is at least `level`."""
        return next((s for s, v in zip(self.steps, self.values, strict=True) if v >= level), None)


@record
class TransferResult(Shown):
    """One transfer against from-scratch training with the same budget and seeds.

    `coefficient` is `crosstask.learning.metrics.relative_gain`, in [-1, 1]; `performance_gain` has the metric's units.
    `convergence_speed_gain`: steps from scratch / steps with transfer to the metric that scratch ends with, of the mean
    curves, and `sample_efficiency_gain`: samples likewise; None where transfer never reaches it or it was not measured.
    `convergence_speed_interval` is the speed gain over the seeds, each by its own two curves (Student's t of the
    logarithms); None for one seed, or where one never reaches it. A capped gain is the most that could be seen: see
    `speed_capped`, `sample_efficiency_capped`. `chance` is what a model reaches that has learned nothing
    (`crosstask.learning.objectives.chance`). `drawn_by` says how the weights of the controls from scratch were drawn.
    """

    source: str
    target: str
    strategy: str
    metric: str
    split: str
    score: Interval
    scratch_score: Interval
    coefficient: Interval
    performance_gain: Interval
    convergence_speed_gain: float | None = None
    convergence_speed_interval: Interval | None = None
    sample_efficiency_gain: float | None = None
    sample_efficiency_capped: bool = False
    chance: float | None = None
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    scratch_curve: LearningCurve = attrs.field(factory=LearningCurve)
    transferred: tuple[str, ...] = ()
    not_transferred: tuple[str, ...] = ()
    drawn_by: str = ""
    seed: int = 0
    seeds: int = 1
    budget: Budget = attrs.field(factory=Budget)
    options: dict[str, Any] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        gained = f"gain {self.performance_gain:+}, coefficient {self.coefficient:+}"
        return (
            f"{type(self).__name__}({self.source!r} to {self.target!r} by {self.strategy}: {self.metric} {self.score} "
            f"on {self.split} data, {self.scratch_score.mean:.3f} from scratch, {gained})"
        )

    def __getitem__(self, name: str) -> Any:
        """A field by name; of one with an interval the mean: `result["performance_gain"]` is a number."""
        if name not in attrs.fields_dict(type(self)):
            raise KeyError(f"{name!r}{nearest(name, attrs.fields_dict(type(self)))}")
        value = getattr(self, name)
        return value.mean if isinstance(value, Interval) else value

    @property
    def negative(self) -> bool:
        """Negative transfer: the whole interval of the coefficient lies below zero."""
        return self.coefficient.high < 0

    @property
    def certain(self) -> bool:
        """Whether it helps beyond doubt: more than one seed, and the whole interval of the gain above zero."""
        return self.seeds > 1 and self.performance_gain.low > 0

    @property
    def speed_capped(self) -> bool:
        """Whether it was as good before its first step as scratch at its end: the speed gain is a lower bound."""
        curve, scratch = self.curve.values, self.scratch_curve.values
        return bool(curve and scratch) and curve[0] >= scratch[-1]

    @property
    def learned_nothing(self) -> bool:
        """Whether the score with transfer is not above chance."""
        return below_chance(self.score, self.chance)

    def _headline(self) -> str:
        return f"{self.source} → {self.target} by {self.strategy}"


def below_chance(score: Interval, chance: float | None) -> bool:
    """Whether a mean score is not above that of a model that has learned nothing; False where that is not known."""
    return chance is not None and score.mean <= chance + 1e-9


class CurriculumStrategy(enum.Enum):
    """The built-in orders. Any registered curriculum can be named by a string instead."""

    EASY_TO_HARD = "easy_to_hard"
    TRANSFER_POTENTIAL = "transfer_potential"
    DIVERSE_SAMPLING = "diverse_sampling"
    UNCERTAINTY_DRIVEN = "uncertainty_driven"
    ADAPTIVE_DIFFICULTY = "adaptive_difficulty"


class TransferStrategy(enum.Enum):
    """The built-in transfer methods."""

    LP_FT = "lp_ft"
    FINE_TUNING = "fine_tuning"
    FEATURE_EXTRACTION = "feature_extraction"
    GRADUAL_UNFREEZING = "gradual_unfreezing"
    L2_SP = "l2_sp"
    DISTILLATION = "distillation"
    ADAPTER = "adapter"


class SynthesisStrategy(enum.Enum):
    """The built-in ways to make a model for an unseen task."""

    WEIGHTED_ENSEMBLE = "weighted_ensemble"
    KNOWLEDGE_COMPOSITION = "knowledge_composition"
    ANALOGY_TRANSFER = "analogy_transfer"


@record
class Adjustment:
    """A change made to a curriculum while it ran, before step `step`."""

    step: int
    task_id: str
    reason: str


@record
class Curriculum(Shown):
    """An order of tasks; the target comes last.

    `task_difficulties` are 0..1 by task id, `contributions` what each source is known to give the target (its transfer
    coefficient, none below 0). `expected_performance` is the target's expected score at the end, between
    `expected_interval`'s ends; None where the target has no data to say so.
    """

    target: str
    task_sequence: tuple[str, ...]
    strategy: str = ""
    task_difficulties: dict[str, float] = attrs.field(factory=dict)
    prerequisites: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    contributions: dict[str, float] = attrs.field(factory=dict)
    expected_performance: float | None = None
    expected_interval: Interval | None = None
    adjustments: tuple[Adjustment, ...] = ()
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "step": number,
                "task_id": task_id,
                "difficulty": self.task_difficulties.get(task_id),
                "helps_target": self.contributions.get(task_id),
                "prerequisites": ", ".join(self.prerequisites.get(task_id, ())),
            }
            for number, task_id in enumerate(self.task_sequence, 1)
        ]

    def _headline(self) -> str:
        return f"Curriculum for {self.target}"


@record
class CurriculumStep:
    """One step of a curriculum: the task trained, starting from what the steps before left, against from scratch.
    `chance` is what a model reaches that has learned nothing.

    Where steps are judged by the target: `target_score` is the target's on the data that decide, learned from what the
    step left, `alone_score` the same from the task's own model alone, `progress` what the better of the two is above
    the best before; `kept` says which went on: "path", "alone", "needed" (no better, but a later step builds on it) or
    "undone".
    """

    step: int
    task_id: str
    score: Interval
    scratch_score: Interval
    gain: Interval
    chance: float | None = None
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    scratch_curve: LearningCurve = attrs.field(factory=LearningCurve)
    target_score: Interval | None = None
    alone_score: Interval | None = None
    progress: Interval | None = None
    kept: str = ""

    @property
    def learned_nothing(self) -> bool:
        """Whether the score is not above chance."""
        return below_chance(self.score, self.chance)


class HoldsModel(Shown):
    """A record that holds a module as long as it is not written."""

    @property
    def model(self) -> Any:
        """The module that came of it (of the first seed); None where only the record was kept."""
        return self.__dict__.get("_model")

    def with_model(self, model: Any) -> Self:
        """The same record, holding a module; what is written of it is the record alone."""
        made: Self = attrs.evolve(self)  # type: ignore[misc]
        made.__dict__["_model"] = model
        return made


@record
class Cost:
    """What learning one model took: optimiser steps, samples seen (with repeats), and how many weights it has."""

    steps: int = 0
    samples: int = 0
    parameters: int = 0


@record
class SeveralResult(HoldsModel):
    """A target learned from several sources, the best first, judged like a `TransferResult`; `single_score` is what the
    best single source gives with the same budget, seeds and samples, and `cost` what one model took, beside
    `single_cost`.
    """

    sources: tuple[str, ...]
    target: str
    strategy: str
    metric: str
    split: str
    score: Interval
    single_score: Interval
    scratch_score: Interval
    cost: Cost
    single_cost: Cost
    notes: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1
    budget: Budget = attrs.field(factory=Budget)
    options: dict[str, Any] = attrs.field(factory=dict)

    def _headline(self) -> str:
        return f"{self.target} from {', '.join(self.sources)} by {self.strategy}"


@record
class CurriculumResult(HoldsModel):
    """A curriculum that was run. `steps[-1]` is the target. `total_steps` counts every optimiser step of the path,
    `trial_steps` those of learning the target from what was not kept, both for one seed. `reached_from` says from where
    the target was learned in the end, `judged_on` by which of its data that was decided; "" where nothing was judged.
    `sources` are the tasks that its model has learned from, in their order: of an undone step none; none from scratch.
    """

    curriculum: Curriculum
    strategy: str
    metric: str
    steps: tuple[CurriculumStep, ...]
    total_steps: int
    trial_steps: int = 0
    reached_from: str = ""
    judged_on: str = ""
    sources: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def as_expected(self) -> bool | None:
        """Whether the target's score lies where the plan expected it; None where it expected nothing."""
        expected = self.curriculum.expected_interval
        if expected is None or not self.steps:
            return None
        return expected.low <= self.steps[-1].score.mean <= expected.high

    def _rows(self) -> tuple[CurriculumStep, ...]:
        return self.steps

    def _headline(self) -> str:
        return f"Curriculum for {self.curriculum.target}, {self.metric}"


@record
class AdviceRow:
    """One source for a target: the score to expect and from what evidence. The interval is of the `setting` in which
    that was found (steps, samples, seeds), and says nothing of others. `screened` is the score of a linear model on its
    features, left one out, `untrained` the best of the same on untrained networks of its architecture, `scratch` the
    score of training from scratch in the same setting as `expected` (of folds, on the first of them as far as the share
    allows). `helps` is whether transfer is more than that, or, where nothing was trained from scratch, `screened` more
    than `untrained`; None: not known, or as good as alike. `shared` counts the target's training samples from which the
    source has learned, too, where it was tried on folds: `expected` is then too good, and has no interval (its ends are
    its mean).
    """

    source: str
    strategy: str
    expected: Interval | None = None
    evidence: str = ""
    setting: str = ""
    screened: float | None = None
    untrained: float | None = None
    scratch: float | None = None
    helps: bool | None = None
    shared: int = 0


@record
class StrategyAdvice:
    """A strategy of a kind (`transfer`, `balancer`, `synthesis`) for a task, and the `usual` one. With 95 % intervals:
    the score that is `expected`, its `gain` over the usual, its `cost` in optimiser steps; None: not known.
    `evidence` counts the settings (tasks with their numbers of samples) in earlier runs that it rests on.
    """

    kind: str
    strategy: str
    usual: str
    expected: Interval | None = None
    gain: Interval | None = None
    cost: Interval | None = None
    evidence: int = 0
    text: str = ""


@record
class Advice(Shown):
    """Which source to use for a target, with what method; `source` None: train from scratch. `text` says it.

    `rows` are all that could be used, the best first; `avoid` what not to use, and why. `cost` is what learning from
    the source takes, in optimiser steps over all seeds; `spent` what finding it out took, as a share of learning from
    every source, and from scratch with every architecture. `untrained` is the score of a linear model on untrained
    features. `strategies` are what earlier runs speak for, where a strategist is installed.
    """

    target: str
    source: str | None
    strategy: str
    metric: str
    expected: Interval | None = None
    rows: tuple[AdviceRow, ...] = ()
    avoid: dict[str, str] = attrs.field(factory=dict)
    cost: int = 0
    spent: float = 0.0
    samples: int = 0
    strategies: tuple[StrategyAdvice, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        return self.text

    def _rows(self) -> tuple[AdviceRow, ...]:
        return self.rows

    def _headline(self) -> str:
        return self.text


@record
class MetaKnowledge(Shown):
    """What several tasks have in common. Tensors (encoders, priors) are stored beside it under its `weights` key."""

    kind: str = option(help="the distiller that made it, by name: the same applies it")
    source_tasks: tuple[str, ...]
    domains: tuple[str, ...] = ()
    embedding: tuple[float, ...] = ()
    generalization_score: float | None = None
    applicability_conditions: dict[str, Any] = attrs.field(factory=dict)
    applicability_count: int = option(0, ge=0, help="how often it was applied")
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)


@record
class Provenance:
    """From what a synthesised model was made: each source task with its weight.

    `expected` is the score that it can be expected to have, with a 95 % interval (`Synthesizer.expect`); the engine
    adds it.
    """

    strategy: str
    new_task: str
    sources: dict[str, float]
    notes: tuple[str, ...] = ()
    confidence: float | None = None
    expected: Interval | None = None


@attrs.frozen
class Unread:
    """What stands for a stage's result that cannot be read as what it was: why, and the plain data."""

    reason: str
    data: Any


class Offers(Protocol):
    """What `RunRecord.result` asks of a registry."""

    def component_class(self, point: str, name: str) -> type[Any]: ...


@record
class RunRecord(Shown):
    """One run: who it is, what made it, what came out. `run.json` is this record.

    `versions` are those of everything that could be used, `used` the distributions whose components were. `notes` say
    what was noticed of the tasks (`TransferEngine.notes`).
    `results` holds the record of each stage that has finished, by the name of its table, as plain data: a run stays
    readable, and is written again untouched, where a stage's plugin is not installed.
    """

    run_id: str
    name: str
    status: str = option("running", choices=("running", "finished", "interrupted", "failed"), help="how far it came")
    seed: int = 0
    started: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = attrs.field(factory=dict)
    used: dict[str, str] = attrs.field(factory=dict)
    recipe: dict[str, Any] = attrs.field(factory=dict)
    summary: dict[str, Any] = attrs.field(factory=dict)
    results: dict[str, Any] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()
    error: str | None = None

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for name, value in self.summary.items():
            known = isinstance(value, dict) and "mean" in value
            ends = {end: value.get(end) if known else None for end in ("low", "high")}
            rows.append({"figure": name, "value": value["mean"] if known else value, **ends})
        return rows

    def _headline(self) -> str:
        return f"{self.name}: {self.status}"

    def stage_of(self, name: str) -> str:
        """Which stage the table `name` is: a table with `use` runs one under another name."""
        table = self.recipe.get(name)
        use = table.get("use", name) if isinstance(table, dict) else name
        return str(use)

    def result(self, name: str, registry: Offers) -> Any:
        """The result of a stage as the record that it is (`Stage.Result`), or an `Unread` that says why it cannot be:
        its plugin is missing or denied, or has changed since. KeyError for a stage that did not finish.
        """
        plain = self.results[name]
        try:
            kind = registry.component_class("stage", self.stage_of(name)).Result
            return structure(plain, kind, name)
        except (PluginError, OptionError) as error:
            return Unread(str(error), plain)
        except Exception as error:  # the record's own code
            return Unread(f"{name}: {type(error).__name__}: {error}", plain)
