"""What a run produces: immutable values with a JSON round trip that carry the seed and the options that made them."""

from __future__ import annotations

import enum
from typing import Any

import attrs

from crosstask.options import option, record


@record
class Interval:
    """A mean over seeds with its two-sided 95 % confidence interval (Student's t)."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


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


@record
class LearningCurve:
    """A metric as training went on: step numbers and values, higher is better."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def final(self) -> float:
        return self.values[-1]

    def first_reaching(self, level: float) -> int | None:
        """The first recorded step whose value is at least `level`."""
        return next((s for s, v in zip(self.steps, self.values, strict=True) if v >= level), None)


@record
class TransferResult:
    """One transfer against from-scratch training with the same budget and seeds.

    `coefficient` is `crosstask.learning.metrics.relative_gain`, in [-1, 1]; `performance_gain` has the metric's units.
    `convergence_speed_gain`: steps from scratch / steps with transfer to the metric that scratch ends with, and
    `sample_efficiency_gain`: samples likewise; None where transfer never reaches it or it was not measured.
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
    sample_efficiency_gain: float | None = None
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    scratch_curve: LearningCurve = attrs.field(factory=LearningCurve)
    transferred: tuple[str, ...] = ()
    not_transferred: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1
    budget: Budget = attrs.field(factory=Budget)
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def negative(self) -> bool:
        """Negative transfer: the whole interval of the coefficient lies below zero."""
        return self.coefficient.high < 0


@record
class BlockAttribution:
    """What one block of layers brought to a transfer; see `crosstask.learning.attribution`.

    Scores with its weights drawn anew (`without`) and with only its weights transferred (`alone`), and the same as what
    was lost against the whole transfer and gained over scratch. `lost_frozen`: what keeping it as it is costs (None for
    a head). Shares are of the whole gain; None where that is not beyond doubt.
    """

    block: str
    weights: int
    without: Interval
    alone: Interval
    lost_without: Interval
    gained_alone: Interval
    lost_frozen: Interval | None = None
    share_lost: Interval | None = None
    share_alone: Interval | None = None


@record
class LayerAttribution:
    """Which layers carried a transfer: ablations with the budget and the seeds of the transfer itself."""

    source: str
    target: str
    strategy: str
    metric: str
    split: str
    gain: Interval
    blocks: tuple[BlockAttribution, ...]
    seed: int = 0
    seeds: int = 1
    budget: Budget = attrs.field(factory=Budget)
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def carrier(self) -> BlockAttribution | None:
        """The block without which most was lost, if that loss is beyond doubt."""
        certain = [block for block in self.blocks if block.lost_without.low > 0]
        return max(certain, key=lambda block: block.lost_without.mean, default=None)


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
    """A change made to a curriculum while it ran."""

    stage: int
    task_id: str
    reason: str


@record
class Curriculum:
    """An order of tasks; the target comes last. `task_difficulties`, `expected_performance`: 0..1 per task id."""

    target: str
    task_sequence: tuple[str, ...]
    strategy: str = ""
    task_difficulties: dict[str, float] = attrs.field(factory=dict)
    prerequisites: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    expected_performance: dict[str, float] = attrs.field(factory=dict)
    adjustments: tuple[Adjustment, ...] = ()
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)


@record
class StageResult:
    """One stage of a curriculum: the task trained, starting from what the stages before left, against from scratch."""

    stage: int
    task_id: str
    score: Interval
    scratch_score: Interval
    gain: Interval
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    scratch_curve: LearningCurve = attrs.field(factory=LearningCurve)


@record
class CurriculumResult:
    """A curriculum that was run. `stages[-1]` is the target. `total_steps` counts every optimiser step of the path."""

    curriculum: Curriculum
    strategy: str
    metric: str
    stages: tuple[StageResult, ...]
    total_steps: int
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)


@record
class MetaKnowledge:
    """What several tasks have in common. Tensors (encoders, priors) are stored beside it under its `weights` key."""

    kind: str = option(choices=("representation", "strategy", "prior"), help="what was distilled")
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

    `expected` is the score that it can be expected to have, with a 95 % interval (`learning.expectation`); the engine
    adds it.
    """

    strategy: str
    new_task: str
    sources: dict[str, float]
    notes: tuple[str, ...] = ()
    confidence: float | None = None
    expected: Interval | None = None


@record
class SynthesisResult:
    """A model for an unseen task, made without training, judged on the task's test split if it has one."""

    task_id: str
    provenance: Provenance
    metric: str | None = None
    score: float | None = None
    full_training_score: float | None = None
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)


@record
class MultiTaskResult:
    """Tasks trained together. Scores per task on the test split; conflicts are one row per recorded step."""

    tasks: tuple[str, ...]
    balancer: str
    sharing: str
    scores: dict[str, float]
    single_task_scores: dict[str, float]
    steps: tuple[int, ...] = ()
    losses: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    weights: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    conflicts: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)


@record
class Trial:
    """One evaluation of a point of a search space. `value` is higher for better, None unless `status` is done."""

    number: int = option(ge=0, help="how many were proposed before it")
    point: dict[str, Any]
    status: str = option("running", choices=("running", "done", "failed"), help="how far it came")
    value: float | None = None
    error: str | None = None
    seconds: float = option(0.0, ge=0, help="what its evaluation took; 0 if the point had been evaluated before")


@record
class WarmStart:
    """A point that a search tries first, because it did well on a related task."""

    point: dict[str, Any]
    source: str = ""
    weight: float = option(1.0, help="how much is expected of it: the transfer coefficient times its rank there")


@record
class SearchResult:
    """What a search came to. `curve` is the best value so far, by the number of trials that had ended.

    The later fields are those of a search for a task's model: `best` was chosen on the validation split, `score` and
    `default_score` are on `split`, of the network that it describes and of the one a run trains by default, over the
    same seeds and with the same number of steps.
    """

    search: str
    trials: tuple[Trial, ...]
    best: Trial | None = None
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    evaluated: int = option(0, ge=0, help="different points that were evaluated")
    seconds: float = option(0.0, ge=0, help="from the first proposal to the last trial's end")
    proposal_seconds: float = option(0.0, ge=0, help="part of it that the search took to propose")
    warm_starts: tuple[WarmStart, ...] = ()
    space: dict[str, Any] = attrs.field(factory=dict)
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)
    task_id: str | None = None
    metric: str | None = None
    split: str | None = None
    model: dict[str, Any] = attrs.field(factory=dict)
    default_model: dict[str, Any] = attrs.field(factory=dict)
    budget: Budget | None = None
    score: Interval | None = None
    default_score: Interval | None = None
    gain: Interval | None = None

    @property
    def failed(self) -> int:
        """How many trials failed."""
        return sum(trial.status == "failed" for trial in self.trials)


@record
class FewShotResult:
    """A meta-learner that was trained on episodes of some classes (or tasks) and judged on those of others.

    `accuracy` is the mean over the test episodes with its 95 % interval; `untrained_accuracy` that of the same learner
    and network before meta-training, on the same episodes. `curve` is the accuracy on training episodes, averaged from
    one of its steps to the next.
    """

    learner: str
    tasks: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    ways: int = option(ge=2, help="classes of an episode")
    shots: int = option(ge=1, help="support samples of each class")
    queries: int = option(ge=1, help="queries of each class")
    steps: int = option(ge=0, help="meta-steps")
    meta_batch: int = option(ge=1, help="episodes of a meta-step")
    accuracy: Interval
    untrained_accuracy: Interval
    held_out: str = option("classes", choices=("classes", "tasks"), help="what the test was apart by")
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    losses: tuple[float, ...] = ()
    split: str = "test"
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.ways


@record
class ContinualScores:
    """Accuracies of tasks learned one after another (means over seeds), and what they say; see `continual_scores`.

    `matrix[i][j]` is the accuracy on task j after learning task i; None where nothing was measured.
    """

    matrix: tuple[tuple[float | None, ...], ...] = ()
    accuracy: Interval | None = None
    backward_transfer: Interval | None = None
    forward_transfer: Interval | None = None
    forgetting: Interval | None = None


@record
class ContinualResult:
    """A sequence of tasks learned with strategies against forgetting, beside none (`naive`) and all tasks at once.

    `joint` is the mean accuracy of one model that learned all tasks together, `joint_scores` that on each task.
    `warnings` say which strategies do not suit the scenario.
    """

    tasks: tuple[str, ...]
    scenario: str = option(choices=("task", "domain", "class"), help="what is known and asked for at test time")
    strategies: tuple[str, ...] = ()
    split: str = "test"
    scores: ContinualScores = attrs.field(factory=ContinualScores)
    naive: ContinualScores | None = None
    joint: Interval | None = None
    joint_scores: tuple[float | None, ...] = ()
    warnings: tuple[str, ...] = ()
    epochs: int = 1
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)


@record
class RunRecord:
    """One run: who it is, what made it, what came out. `run.json` is this record."""

    run_id: str
    name: str
    status: str = option("running", choices=("running", "finished", "interrupted", "failed"), help="how far it came")
    seed: int = 0
    started: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = attrs.field(factory=dict)
    recipe: dict[str, Any] = attrs.field(factory=dict)
    summary: dict[str, Any] = attrs.field(factory=dict)
    discovery: dict[str, Any] = attrs.field(factory=dict)
    curriculum: CurriculumResult | None = None
    curriculum_baselines: dict[str, Any] = attrs.field(factory=dict)
    transfers: tuple[TransferResult, ...] = ()
    attributions: tuple[LayerAttribution, ...] = ()
    synthesis: SynthesisResult | None = None
    multitask: MultiTaskResult | None = None
    knowledge: MetaKnowledge | None = None
    few_shot: FewShotResult | None = None
    continual: ContinualResult | None = None
    search: SearchResult | None = None
    error: str | None = None
