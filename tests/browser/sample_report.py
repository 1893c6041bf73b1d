"""A finished run with every built-in stage and invented numbers, for tests of the whole report."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.options import unstructure
from crosstask.records import (
    Adjustment,
    Advice,
    AdviceRow,
    Cost,
    Curriculum,
    CurriculumResult,
    CurriculumStep,
    Interval,
    LearningCurve,
    MetaKnowledge,
    Provenance,
    RunRecord,
    TransferResult,
)
from crosstask.tasks import TaskDescriptor
from crosstask_alignment.records import AlignmentResult
from crosstask_bundles.records import BundlesResult, BundleUse, TakenEdge
from crosstask_continual.records import ContinualResult, ContinualScores
from crosstask_curricula.records import CurriculumComparison
from crosstask_discovery.records import DiscoveryResult
from crosstask_distillation.records import DistillationResult
from crosstask_federation.records import FederatedResult, Lost, SharedEdge, SharedEdgesResult
from crosstask_lifelong.records import Arrival, LifelongResult
from crosstask_losses.records import LossesResult
from crosstask_meta.records import FewShotResult
from crosstask_monitoring.records import Comparison, HealResult, Operation, Phase, Reading
from crosstask_multi_source.records import Candidate, MultiSourceReport, MultiSourceResult
from crosstask_multitask.records import MultiTaskResult
from crosstask_multitask.sharing import SharingMatrix
from crosstask_recommenders.records import ColdStartScores, RecommendResult
from crosstask_reinforcement.records import MeasuredTransfer, ReinforcementResult
from crosstask_reinforcement.training import Trained
from crosstask_routing.records import PolicyFigures, RoutingResult
from crosstask_search.records import SearchResult, Trial, WarmStart
from crosstask_shifted.records import ShiftResult, ShiftRow
from crosstask_synthesis.records import SynthesisResult
from crosstask_transfer.records import BlockAttribution, LayerAttribution

EVIL = '<script>alert("x")</script> %{x} </b>'
# each begins with what leaves an attribute and opens an element, as long names are cut in the middle
HOSTILE = (
    f"\"'><u/>{EVIL}",
    "\"'><u/></script><script>alert(1)</script>",
    "\"'><u/><img src=x onerror=alert(2)> <b onclick='alert(3)'>b</b> <a href=javascript:alert(4)>a</a> [red]x[/]",
    "\"'><u/>&lt;svg onload=alert(5)&gt; ${alert(6)} %{meta} %{customdata[0]} <!-- ]]> \" ' ` \\",
    "\"'><u/>" + "長い名前" * 40 + "Ω̈é👩‍👩‍👧‍👦 \u202egnol " + "W" * 60,
)
TASKS = (
    "all_ten", "zero_to_four", "five_to_nine", "parity", "above_four", "prime", "has_loop", "rotated_90", "inverted",
    "blurred", "permuted_pixels", "shuffled_labels", "multiples_of_three", "thick_strokes",
)  # fmt: skip
RENAMED = ("all_ten", "inverted", "blurred", "has_loop", "parity")
SECTIONS: dict[str, tuple[str, ...]] = {
    "advice": ("What to do for prime",),
    "discovery": ("Transfer graph", "Transfer matrix"),
    "curriculum": ("Curriculum", "Learning curves", "Why it transferred"),
    "explain": ("Why it transferred",),
    "multitask": ("Multi-task training",),
    "synthesis": ("Zero-shot synthesis",),
    "distillation": ("Meta-knowledge",),
    "few_shot": ("Few-shot learning",),
    "continual": ("Continual learning",),
    "search": ("Search",),
    "alignment": ("Domain alignment",),
    "losses": ("Objectives",),
    "recommend": ("Recommendation to new users",),
    "multi_source": ("From several sources",),
    "shift": ("Transfer under shift",),
    "reinforcement": ("Reinforcement learning", "Transfer by acting"),
    "routing": ("Routing",),
    "lifelong": ("Tasks that arrive",),
    "bundles": ("Bundles",),
    "heal": ("Monitored and healed",),
    "federated": ("Federation",),
    "shared_edges": ("Transfers shared by sites",),
}
"""The headings of each stage."""
FIGURES = 54
"""How many there are in all: graph, matrix, 3 of the curriculum, 2 of learning curves, 2 times why it transferred, 7 of
multi-task training, 2 each of synthesis, few-shot, continual learning and search, 3 of domain alignment, 6 of
objectives, 2 of recommendation, 1 of several sources, 3 each of shift, reinforcement, arrivals and federation, 2 each
of routing and healing, 1 each of bundles and shared edges.
"""
STEPS = tuple(range(0, 200, 5))
IMPOSSIBLE = 3
"""Pairs of the graph that were estimated, and cannot be tried."""


def sample(*names: str, seed: int = 7) -> tuple[RunRecord, TransferGraph]:
    """`names` replace those of tasks (of `RENAMED`, in that order); several also follow every other text that a plugin
    or a user may choose.
    """
    made = _Sample(names, random.Random(seed))
    graph = made.graph()
    results = {name: unstructure(getattr(made, name)()) for name in SECTIONS}
    record = RunRecord(
        run_id="2f6c1a9e", name=made.text("Digits: what helps parity?"), status="finished", seed=seed, seconds=83.4,
        started="2025-03-04T10:22:31+00:00",
        versions={"python": "3.11.2", "torch": "2.13.0", "crosstask-kernel": "0.1.0", made.text("mine"): "0.1.0"},
        recipe={"seeds": 3, "source": {"name": made.text("digits")}, "curriculum": {"target": made.tasks[3]}},
        summary={
            made.text("measured_pairs"): 126, "target": made.text("parity"), "curriculum": " → ".join(made.path),
            "target_with_curriculum": {"mean": 0.94, "low": 0.91, "high": 0.97}, "zero_shot_score": 0.71,
            "not_measured": None,
        },
        results=results,
    )  # fmt: skip
    return record, graph


def around(mean: float, width: float = 0.03) -> Interval:
    return Interval(mean=mean, low=mean - width, high=mean + width)


def curve(start: float, end: float, speed: float) -> LearningCurve:
    steps = tuple(range(0, 201, 20))
    return LearningCurve(steps=steps, values=tuple(end - (end - start) * math.exp(-s * speed / 60) for s in steps))


class _Sample:
    """Each stage has a method of its name for its record."""

    def __init__(self, names: tuple[str, ...], rng: random.Random) -> None:
        new = dict(zip(RENAMED, names, strict=False))
        self.tasks = tuple(new.get(task, task) for task in TASKS)
        self.path = tuple(new.get(task, task) for task in RENAMED)
        self.together = (*self.tasks[1:3], self.path[4], self.path[0])
        self.rng = rng
        self._behind = itertools.cycle(names if len(names) > 1 else ("",))

    def text(self, plain: str) -> str:
        return f"{plain} {next(self._behind)}".strip()

    def graph(self) -> TransferGraph:
        rng, tasks = self.rng, self.tasks
        graph = TransferGraph(
            TaskDescriptor(
                task_id=task, domain=self.text("digits"), sample_count=1078,
                required_skills=(self.text("shape"), f"skill {n % 3}"),
            )
            for n, task in enumerate(tasks)
        )  # fmt: skip
        for (i, source), (j, target) in itertools.permutations(enumerate(tasks), 2):
            near = 0.62 if i % 3 == j % 3 else 0.16
            mean = 0.0 if "shuffled_labels" in (source, target) else max(-0.9, min(0.95, rng.gauss(near, 0.2)))
            ends: dict[str, Any] = {"source": source, "target": target, "found_by": self.text("skills")}
            guess = max(-0.99, min(0.99, mean + rng.gauss(0, 0.15)))
            graph.add(TransferEdge(**ends, transfer_coefficient=guess, evidence=Evidence.ESTIMATED))
            if rng.random() < 0.7:
                width = rng.uniform(0.03, 0.2)
                ends |= {"found_by": self.text("probe"), "best_strategy": self.text("fine_tuning")}
                graph.add(
                    TransferEdge(
                        **ends, transfer_coefficient=mean, evidence=Evidence.MEASURED, uncertainty=width / 2,
                        low=mean - width, high=mean + width, accuracy_gain=mean / 8,
                        accuracy_gain_low=(mean - width) / 8, accuracy_gain_high=(mean + width) / 8,
                        convergence_speed_gain=1 + max(0, 2 * mean), speed_capped=mean > 0.8,
                    )
                )  # fmt: skip
        for edge in [edge for edge in graph.edges() if not edge.measured][:IMPOSSIBLE]:
            graph.rule_out(edge.source, edge.target, self.text("its inputs have another shape"))
        return graph

    def advice(self) -> Advice:
        rows = tuple(
            AdviceRow(
                source=task, strategy=self.text("lp_ft"), expected=around(0.9 - n / 20), evidence=self.text("tried"),
                screened=0.7 if n else None, helps=True if n else None,
            )
            for n, task in enumerate(self.path)
        )  # fmt: skip
        return Advice(
            target="prime", source=self.path[0], strategy=self.text("lp_ft"), metric=self.text("accuracy"), rows=rows,
            avoid={self.path[1]: self.text("its inputs have another shape")}, text=self.text("Use all_ten."),
            samples=40,
        )  # fmt: skip

    def discovery(self) -> DiscoveryResult:
        return DiscoveryResult(
            tasks=14, repeats={"probe": 3}, skipped={self.text("probe"): ((*self.path[:2], self.text("no data")),)}
        )

    def curriculum(self) -> CurriculumComparison:
        path, metric = self.path, self.text("accuracy")
        steps = tuple(
            CurriculumStep(
                step=n + 1, task_id=task, score=around(0.9 + 0.01 * n), scratch_score=around(0.9 - 0.03 * n),
                gain=around(0.04 * n, 0.02), chance=0.95 if n == 1 else 0.3,
                curve=curve(0.3 + 0.1 * n, 0.92 + 0.01 * n, 2), scratch_curve=curve(0.1, 0.9 - 0.03 * n, 1),
            )
            for n, task in enumerate(path)
        )  # fmt: skip
        plan = Curriculum(
            target=path[-1], task_sequence=path, strategy=self.text("transfer_potential"),
            task_difficulties={task: 0.2 + 0.1 * n for n, task in enumerate(path)},
            prerequisites={path[-1]: (path[0], path[3])},
            adjustments=(Adjustment(step=3, task_id=path[2], reason=self.text("the step before it fell short")),),
        )  # fmt: skip
        transfers = tuple(
            TransferResult(
                source=source, target=target, strategy=self.text("fine_tuning"), metric=metric, split="test",
                score=around(0.9), scratch_score=around(0.9 - c / 5), coefficient=around(c, 0.08),
                performance_gain=around(c / 5), seeds=3, curve=curve(0.5, 0.9, 2), chance=0.3,
                convergence_speed_gain=2.5, convergence_speed_interval=Interval(mean=2.4, low=1.2, high=4.8),
                sample_efficiency_gain=8.0, sample_efficiency_capped=True,
                scratch_curve=curve(0.1, 0.9 - c / 5, 1),
            )
            for source, target, c in [(path[0], "prime", 0.61), (path[2], path[1], 0.34), ("prime", path[4], -0.16)]
        )  # fmt: skip
        return CurriculumComparison(
            curriculum=CurriculumResult(
                curriculum=plan, strategy=self.text("fine_tuning"), metric=metric, steps=steps, total_steps=1000,
                seeds=3,
            ),
            baselines={"from scratch": around(0.88), f"best single source: {path[3]}": around(0.91, 0.04)},
            transfers=transfers, attributions=(self.explain(),),
        )  # fmt: skip

    def explain(self) -> LayerAttribution:
        def block(name: str, lost: float, alone: float, frozen: float | None) -> BlockAttribution:
            return BlockAttribution(
                block=self.text(name), weights=1200, without=around(0.9 - lost), alone=around(0.8 + alone),
                lost_without=around(lost), gained_alone=around(alone),
                lost_frozen=None if frozen is None else around(frozen),
                share_lost=Interval(mean=lost / 0.1, low=0.55, high=1.25), share_alone=around(alone / 0.1, 0.4),
            )  # fmt: skip

        blocks = (block("trunk.1", 0.08, 0.06, -0.01), block("trunk.3", 0.02, -0.05, 0.01), block("head", 0.0, 0, None))
        return LayerAttribution(
            source=self.path[0], target=self.path[1], strategy=self.text("lp_ft"), metric=self.text("accuracy"),
            split="test", gain=around(0.1, 0.05), blocks=blocks, seeds=3,
        )  # fmt: skip

    def multitask(self) -> MultiTaskResult:
        rng, together = self.rng, self.together
        return MultiTaskResult(
            tasks=together, balancer=self.text("rgb"), sharing=self.text("hard_parameter_sharing"),
            scores={task: 0.93 - 0.02 * n for n, task in enumerate(together)},
            single_task_scores={task: 0.9 - 0.01 * n for n, task in enumerate(together)}, steps=STEPS,
            chances={task: 0.95 if n == 3 else 0.5 for n, task in enumerate(together)},
            losses={task: tuple(2.3 * math.exp(-s / (40 + 12 * n)) + rng.random() / 20 for s in STEPS)
                    for n, task in enumerate(together)},
            weights={task: tuple(0.25 + rng.gauss(0, 0.02) for _ in STEPS) for task in together},
            conflicts={
                self.text("mean_cosine"): tuple(0.5 - s / 250 + rng.gauss(0, 0.06) for s in STEPS),
                "conflict_share": tuple(min(1.0, max(0.0, s / 300 + rng.gauss(0, 0.05))) for s in STEPS),
                "magnitude_similarity": tuple(0.8 + rng.gauss(0, 0.03) for _ in STEPS),
            },
            start=self.text("the encoder of distillation"), adapter=self.text("lora"), trained_weights=420,
            all_weights=14_100,
            learned=(
                SharingMatrix(
                    name=self.text("Experts of each task"), rows=together, columns=(self.text("expert 1"), "expert 2"),
                    values=tuple((0.2 * n, 1 - 0.2 * n) for n in range(len(together))), told=self.text("mean weight"),
                ),
            ),
        )  # fmt: skip

    def synthesis(self) -> SynthesisResult:
        unseen = self.text("even_and_small")
        return SynthesisResult(
            task_id=unseen, metric=self.text("accuracy"), score=0.71, full_training_score=0.95, chance=0.75,
            provenance=Provenance(
                strategy=self.text("weighted_ensemble"), new_task=unseen, confidence=0.64, expected=around(0.74, 0.08),
                sources={"zero_to_four": 0.3, **dict(zip(self.path, (0.26, 0.2, 0.12, 0.08, 0.04), strict=True))},
                notes=tuple(self.text(f"{task} left out: it shares no class with it") for task in self.tasks[9:]),
            ),
        )  # fmt: skip

    def distillation(self) -> DistillationResult:
        knowledge = MetaKnowledge(
            kind="representation", source_tasks=self.path, domains=(self.text("digits"),), generalization_score=0.09,
            applicability_conditions={"input_shapes": [[8]], self.text("architecture"): self.text("ReLU()\nTanh()")},
        )  # fmt: skip
        return DistillationResult(knowledge=knowledge, distiller=self.text("representation"))

    def few_shot(self) -> FewShotResult:
        classes = tuple(self.text(f"class {n}") for n in range(7))
        return FewShotResult(
            learner=self.text("maml"), tasks=self.path[:1], train=classes[:4], test=classes[4:], ways=3, shots=5,
            queries=5, steps=200, meta_batch=8, accuracy=around(0.86), untrained_accuracy=around(0.41),
            start=self.text("the encoder of distillation"), adapter=self.text("lora"), curve=curve(0.4, 0.88, 1),
        )  # fmt: skip

    def continual(self) -> ContinualResult:
        def scores(lost: float) -> ContinualScores:
            count = len(self.path)
            matrix = tuple(tuple(0.93 - lost * max(0, i - j) for j in range(count)) for i in range(count))
            mean = sum(matrix[-1]) / count
            return ContinualScores(
                matrix=matrix, accuracy=around(mean), backward_transfer=around(-lost), forgetting=around(lost)
            )

        return ContinualResult(
            tasks=self.path, scenario="domain", strategies=(self.text("ewc"), self.text("replay")),
            scores=scores(0.04), naive=scores(0.12), joint=around(0.94), joint_scores=(0.95, 0.93, 0.96, 0.92, None),
            majority=0.52, majority_scores=(0.5, 0.51, 0.5, 0.57, None),
            warnings=(self.text("ewc does not suit domain-incremental learning"),), adapter=self.text("lora"),
            weights=14_100, trained_weights=420, epochs=3, seeds=3,
        )  # fmt: skip

    def search(self) -> SearchResult:
        def trial(number: int) -> Trial:
            point = {"hidden": 16 + number % 3, "rate": 0.001 * (number + 1), self.text("kind"): self.text("conv")}
            if number == 4:
                return Trial(number=number, point=point, status="failed", error=self.text("ValueError: too large:"))
            return Trial(number=number, point=point, status="done", value=0.7 + 0.02 * (number * 5 % 11), seconds=2.0)

        trials = tuple(trial(number) for number in range(12))
        values = [t.value or 0.0 for t in trials]
        best_so_far = tuple(max(values[: n + 1]) for n in range(12))
        return SearchResult(
            search=self.text("bayesian_optimizer"), trials=trials, best=trials[max(range(12), key=values.__getitem__)],
            curve=LearningCurve(steps=tuple(range(1, 13)), values=best_so_far), evaluated=11, seconds=26.2,
            proposal_seconds=1.4, warm_starts=(WarmStart(point=trials[0].point, source=self.path[0]),),
            task_id=self.path[1], metric=self.text("accuracy"), split=self.text("test"), score=around(0.93),
            default_score=around(0.9), gain=around(0.03),
        )  # fmt: skip

    def alignment(self) -> AlignmentResult:
        source, target = self.path[:2]
        return AlignmentResult(
            sources=(source,), targets=(target,), alignment=self.text("mmd"), weight=1.0, metric=self.text("accuracy"),
            adapted={target: around(0.79)}, source_only={target: around(0.68)}, supervised={target: around(0.9)},
            chances={target: 0.1}, domain_accuracy=around(0.8), domain_accuracy_before=around(0.97), domain_chance=0.5,
            sources_adapted={source: around(0.95)}, sources_only={source: around(0.96)}, steps=STEPS,
            terms=tuple(0.1 + 0.4 * math.exp(-s / 60) for s in STEPS), seeds=3,
            notes=(self.text("nothing was gained"),),
        )  # fmt: skip

    def losses(self) -> LossesResult:
        names, terms = (self.text("elbo"), "predictive"), (self.text("recon_loss"), "attention_dynamics_loss")
        falling = {name: tuple(2.3 * math.exp(-s / (40 + 12 * n)) for s in STEPS) for n, name in enumerate(terms)}
        return LossesResult(
            task=self.path[0], model=self.text("mine:network"), balancer=self.text("rgb"),
            objectives={name: (term,) for name, term in zip(names, terms, strict=True)}, steps=STEPS,
            losses={name: falling[term] for name, term in zip(names, terms, strict=True)}, terms=dict(falling),
            weights={term: tuple(min(1.0, s / 100) for s in STEPS) for term in terms},
            balance=dict.fromkeys(names, tuple(0.5 for _ in STEPS)),
            cosines={f"{names[0]}, {names[1]}": tuple(math.sin(s / 30) for s in STEPS)},
            conflicts={"conflict_share": tuple(float(math.sin(s / 30) < 0) for s in STEPS)},
            before=dict.fromkeys(terms, 2.3), after=dict.fromkeys(terms, 0.2), parameters=14_100,
        )  # fmt: skip

    def recommend(self) -> RecommendResult:
        return RecommendResult(
            task=self.path[0], feedback="explicit", train_users=400, test_users=100, items=64, top=10, negatives=0,
            scores=tuple(
                ColdStartScores(
                    recommender=name, support=support, rmse=1.7 - 0.02 * support + 0.05 * n, mae=1.3, auc=0.6,
                    ndcg=0.95, hit=None, baseline=n == 1, seconds=2e-5,
                )
                for n, name in enumerate((self.text("maml"), "user_mean"))
                for support in (1, 3, 5, 10)
            ),
        )  # fmt: skip

    def multi_source(self) -> MultiSourceReport:
        ways = (self.text("single"), "concat", "joint", self.text("ensemble"))
        candidates = tuple(
            Candidate(
                name=way, sources=self.path[: n + 1], validation=0.8 + 0.02 * n, gain=0.02 * n if n else None,
                error=0.01,
                cost=Cost(steps=100 * (n + 1), samples=2500 * (n + 1), parameters=4000 * (n + 1)),
                reason=self.text("it diverged") if n == 2 else "",
            )
            for n, way in enumerate(ways)
        )  # fmt: skip
        one = MultiSourceResult(
            sources=self.path[:3], target=self.path[3], strategy=self.text("best_of"), metric="accuracy", split="test",
            score=around(0.88), single_score=around(0.86), scratch_score=around(0.8), seeds=3,
            cost=Cost(steps=400, samples=10_000, parameters=16_000),
            single_cost=Cost(steps=100, samples=2500, parameters=4000), notes=(self.text("one was left out"),),
            chosen=ways[3], gain=around(0.02), candidates=candidates, judged_on=self.text("its validation data"),
            search=Cost(steps=1000, samples=25_000, parameters=40_000),
        )  # fmt: skip
        return MultiSourceReport(results=(one,))

    def shift(self) -> ShiftResult:
        shifts, target = ("noise", self.text("rotation"), "adversarial"), self.path[0]

        def row(source: str | None, method: str, level: float) -> ShiftRow:
            scores = {s: tuple(around(level - 0.05 * k) for k in (1, 3, 5)) for s in shifts}
            gains = {s: tuple(around(0.04, 0.02) for _ in range(3)) for s in shifts} if source else {}
            gain = around(0.04, 0.02) if source else None
            return ShiftRow(target=target, source=source, method=method, clean=around(level), scores=scores, gain=gain,
                            gains=gains)  # fmt: skip

        rows = (row(None, "scratch", 0.8), row(self.path[1], self.text("fine_tuning"), 0.85))
        return ShiftResult(metric="accuracy", severities=(1, 3, 5), shifts=shifts, rows=rows, chances={target: 0.1},
                           radius=0.05, notes=(self.text("a note"),), seeds=3)  # fmt: skip

    def reinforcement(self) -> ReinforcementResult:
        tasks, points = self.path[:3], tuple(range(0, 9000, 1000))
        trained = tuple(
            Trained(
                curves={t: LearningCurve(steps=points, values=tuple(60.0 * k for k in range(9))) for t in tasks},
                collected={t: LearningCurve(steps=points[1:], values=(90.0,) * 8) for t in tasks},
                solved_at=dict.fromkeys(tasks, 8000), steps=8000, seconds=3.5, seed=seed,
            )
            for seed in range(2)
        )  # fmt: skip
        transfers = tuple(
            MeasuredTransfer(source=a, target=b, level=475.0, budget=12_000, steps=(3000, None),
                             scratch_steps=(6000, 9000), coefficient=around(0.3, 0.2), speed_gain=1.5,
                             taken=(self.text("trunk.0.weight"),))
            for a in tasks for b in tasks if a != b
        )  # fmt: skip
        return ReinforcementResult(
            tasks=tasks, agent=self.text("ppo"), returns={t: around(480.0, 15.0) for t in tasks},
            levels=dict.fromkeys(tasks, 475.0), solved=dict.fromkeys(tasks, 2),
            steps_to_solve=dict.fromkeys(tasks, 8000.0), trained=trained, transfers=transfers, steps=9000, episodes=20,
            notes=(self.text("a note"),), seeds=2,
        )  # fmt: skip

    def routing(self) -> RoutingResult:
        tools, tasks, tenths = (self.text("small net"), "large net"), self.path[:3], range(1, 11)
        names = ("oracle", "best static", "random", self.text("linucb"))
        policies = tuple(
            PolicyFigures(
                name=name, reward=0.9 - 0.1 * n, success_rate=0.9 - 0.1 * n, cost=0.2, efficiency=4.0,
                regret=around(30.0 * n, 5.0), exploration=tuple(0.5 / k for k in tenths),
                regrets=tuple(3.0 * n * k for k in tenths),
            )
            for n, name in enumerate(names)
        )  # fmt: skip
        return RoutingResult(
            tools=tools, tasks=tasks, accuracy=dict.fromkeys(tools, (0.9, 0.8, 0.7)), costs=dict.fromkeys(tools, 0.5),
            requests=1000, repeats=3, cost_weight=0.1, policies=policies,
            chosen={names[3]: dict.fromkeys(tools, (0.5, 0.2, 0.9))},
        )  # fmt: skip

    def lifelong(self) -> LifelongResult:
        arrivals = tuple(
            Arrival(
                task=task, known=n, looked_at=n, tried=self.path[: min(n, 2)], source=self.path[n - 1] if n else None,
                expected=0.2 if n else None, gain=around(0.05 * n), trainings=3 * n + 1,
                best=self.path[n - 1] if n else None, regret=0.01 if n else None, random_gain=0.02 if n else None,
                tried_gain=0.03 if n else None, notes=(self.text("a note"),), seconds=1.5,
            )
            for n, task in enumerate(self.path)
        )  # fmt: skip
        return LifelongResult(arrivals=arrivals, per_task=2, repeats=3)

    def bundles(self) -> BundlesResult:
        use = BundleUse(
            name=self.text("measured"), digest="5e" * 32, licence=self.text("CC0-1.0"), run_id=self.text("run"),
            made_by=self.text("crosstask"), created="2026-01-02T03:04:05+00:00", signed_by=self.text("somebody"),
            matched={self.text("theirs"): self.path[0]}, edges={"measured": 3}, left_out=2,
        )  # fmt: skip
        edges = tuple(
            TakenEdge(source=a, target=b, mean=0.2, evidence="measured", found_by=self.text("probe"), low=0.1, high=0.3,
                      measurements=2)
            for a, b in itertools.pairwise(self.path)
        )  # fmt: skip
        return BundlesResult(uses=(use,), edges=edges, conflicts=(self.text("two measurements differ"),))

    def heal(self) -> HealResult:
        task, scores = self.path[0], (0.92,) * 10 + (0.6,) * 5 + (0.9,) * 5
        comparison = Comparison(old=0.6, new=0.9, difference=around(0.3), p_value=0.001, test="McNemar", samples=60)
        operation = Operation(
            task=task, outcome="replaced", metric="accuracy", reason=self.text("better beyond noise"),
            comparison=comparison, reached_from=self.text("step 1"), steps=200, samples={"train": 80, "judged": 60},
            old="aa" * 32, new="bb" * 32,
        )  # fmt: skip
        reading = Reading(
            task=task, model="aa" * 32, metric="accuracy", detector=self.text("e_process"), records=15, samples=300,
            reference=around(0.92), recent=around(0.6), statistic=tuple(1.2**k for k in range(15)), threshold=10.0,
            alarm_at=14, began=11,
        )  # fmt: skip
        phases = (
            Phase(task=task, start=0, records=10, before=0.92, after=0.9, samples=200),
            Phase(task=self.path[1], start=10, records=10, before=0.6, after=0.9, samples=200),
        )
        return HealResult(
            task=task, metric="accuracy", detector=self.text("e_process"), batch=20, scores=scores,
            reference=around(0.92), phases=phases, alarms=(14,), operated=(15,), operations=(operation,),
            readings=(reading,), placed=(0,),
        )  # fmt: skip

    def federated(self) -> FederatedResult:
        sites, rounds = (self.text("north"), "south"), (0, 5, 10)
        return FederatedResult(
            federation=self.text("fedavg"), metric="accuracy", sites=sites, samples=dict.fromkeys(sites, 100),
            tested=dict.fromkeys(sites, 40), score=around(0.85), scores={s: around(0.85) for s in sites}, rounds=rounds,
            curve=(0.1, 0.7, 0.85), curves=dict.fromkeys(sites, (0.1, 0.7, 0.85)), shares=("weights",),
            up=(4000,) * 10, down=(4000,) * 10, stays=(self.text("head.weight"),), answered=(2,) * 10,
            pooled=around(0.9), pooled_scores={s: around(0.9) for s in sites}, alone=around(0.7),
            alone_scores={s: around(0.7) for s in sites},
            lost=(Lost(round=3, site=sites[0], reason=self.text("gone")),),
            notes=(self.text("a note"),), source=self.path[0], seeds=2,
        )  # fmt: skip

    def shared_edges(self) -> SharedEdgesResult:
        sites, sources, target = (self.text("north"), "south"), self.path[:2], self.path[2]
        edges = tuple(
            SharedEdge(site=site, source=source, target=target, coefficient=around(0.2, 0.1), score=around(0.8),
                       scratch_score=around(0.7), samples=60)
            for site in sites for source in sources
        )  # fmt: skip
        merged = {f"{source} -> {target}": 0.2 for source in sources}
        return SharedEdgesResult(
            method=self.text("lp_ft"), sites=sites, sources=sources, edges=edges, merged=merged,
            uncertainty=dict.fromkeys(merged, 0.05), bytes=4200, lost={sites[1]: self.text("no data")}, seeds=2,
        )  # fmt: skip
