"""What transfer from discovered sources buys: python tests/benchmarks/promises.py [digits omniglot images] [--seeds 5]

Each world has sources with trained models and held-out targets. For every target the sources are found as a user would:
all are ranked by `mean_z` on a few labelled samples and the best three are measured by `probe`. On validation data it
is decided whether the target is learned from the best of them, by a curriculum of the three, or from scratch, where
nothing beats that. Then, with the same steps and samples on both sides and learning rates tuned for each side and
target on validation data: time and epochs to an accuracy (from the best source or scratch: a curriculum's stages take
longer than the target), samples to an accuracy, accuracy with few samples; the same from a random source, and by
curricula in the order of the graph, in random order, reversed, and of random sources, each way with its own
learning rate; and models made without training. Then the same by `MEANS`: the curriculum with a gate, and several
sources at once, `concat_joint` and `best_of` from plugins/transfer/multi-source, with what they cost in steps.
`--means`: these alone, with the lowest and the middle number of samples, without what takes longest, curricula of
random sources and orders.

Test data are used for what is reported only. Results are kept in `places.CACHE`: a call that was stopped goes on.
`--plot` writes docs/images/promises.png.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from places import CACHE, DATA

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.own_models import train_models
from crosstask.learning.training import fit
from crosstask.learning.transferring import (
    drawn,
    fresh_model,
    key_of,
    receive,
    same_classes,
    scratch,
    transfer_scores,
)
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.tasks import Portfolio, Task
from crosstask_multi_source import MultiSource
from crosstask_multi_source.work import Start, Work, learned_nothing
from crosstask_synthesis.judging import judged

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "promises.png"
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
EVERY = 5  # steps between two points of a curve
TUNED, JUDGED = (1001, 1002), (1003, 1004, 1005, 1006)
"""Seeds, which nothing else uses, of the choice of a learning rate and of the choice among ways."""
SINGLE = "best source"
MEANS = ("gated", "concat_joint", "best_of")
"""Ways into a target from its three measured sources, beside the picked single one."""
CONV = ModelSpec(kind="discovery_world:encoder", arguments={"widths": (16, 32)})


@attrs.frozen
class World:
    """Sources with models, held-out targets, and how long and from how many samples these are learned."""

    name: str
    sources: Portfolio
    targets: list[Task]
    spec: ModelSpec
    train: Budget
    steps: int
    samples: Callable[[Task], list[int]]
    """The ladder of sample counts of a target; the middle one is what single comparisons use."""

    stage: int = 75
    """Steps of every stage of a curriculum but the first, which is that source's own trained model."""


def digits() -> World:
    loaded = Registry.installed().create("source", "digits").load()  # type: ignore[attr-defined]
    held = ("high", "loop", "above_four", "prime", "blurred", "rotated")
    sources = [t for t in loaded if t.task_id not in held]
    return World(
        "digits", Portfolio(map(free, sources)), [free(loaded[t]) for t in held], ModelSpec(hidden=(64, 64)),
        Budget(steps=300, learning_rate=3e-3), 100, lambda _: [15, 25, 50, 100, 200], 150,
    )  # fmt: skip


def omniglot() -> World:
    """Sources are the publisher's background alphabets, targets its evaluation alphabets."""
    sources = (
        "Arcadian", "Balinese", "Braille", "Cyrillic", "Futurama", "Greek", "Hebrew", "Japanese_(hiragana)", "Korean",
        "Latin", "Sanskrit", "Tifinagh",
    )  # fmt: skip
    targets = ("Angelic", "Atlantean", "Tengwar", "Sylheti")
    options = {"alphabets": sources, "unseen": targets, "size": 14, "controls": 1, "path": str(DATA)}
    loaded = Registry.installed().create("source", "omniglot", options).load()  # type: ignore[attr-defined]

    def shots(task: Task) -> list[int]:
        return [count * int(task.descriptor.output_dim or 1) for count in (1, 2, 3, 5, 10)]

    return World(
        "omniglot", Portfolio(loaded), loaded.unseen, CONV, Budget(steps=300, learning_rate=3e-3, batch_size=64), 100,
        shots,
    )  # fmt: skip


def images() -> World:
    """MNIST and Fashion-MNIST to learn first; USPS, and other questions about other images, as targets; 14 x 14."""
    rng = np.random.default_rng(0)

    def small(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4), dtype=np.float32)[:, None] / 255

    def pixels(x: np.ndarray) -> np.ndarray:
        """USPS, 16 x 16, without its outermost pixels."""
        return x.reshape(-1, 1, 16, 16)[..., 1:15, 1:15].astype(np.float32) / max(1.0, float(x.max()))

    def task(task_id: str, x: np.ndarray, y: np.ndarray, classes: Sequence[str], domain: str) -> Task:
        order = rng.permutation(len(y))
        x, y = x[order], y[order].astype(np.int64)
        ends = (0, len(y) - 1400, len(y) - 1000, len(y))
        parts = {
            s: (x[a:b], y[a:b]) for s, a, b in zip(("train", "validation", "test"), ends[:-1], ends[1:], strict=True)
        }
        told = TaskDescriptor(
            task_id=task_id, domain=domain, input_shape=(1, 14, 14), output_dim=len(classes), sample_count=ends[1],
            classes=tuple(classes),
        )  # fmt: skip
        return Task(descriptor=told, **parts)  # type: ignore[arg-type]

    mnist, fashion, usps = (np.load(DATA / f"{name}.npz") for name in
                            ("mnist_20k_10k", "fashion_mnist_20k_10k", "usps_7291_2007"))  # fmt: skip
    ten, clothes = [str(d) for d in range(10)], [f"garment {d}" for d in range(10)]
    parity = ["even", "odd"]
    first, later = slice(0, 6000), slice(6000, 10000)
    m, f = small(mnist["x_train"]), small(fashion["x_train"])
    my, fy = mnist["y_train"], fashion["y_train"]
    u, uy = pixels(usps["x_train"]), usps["y_train"]
    noise = rng.permutation(my[first])
    sources = [
        task("MNIST", m[first], my[first], ten, "mnist"),
        task("MNIST parity", m[first], my[first] % 2, parity, "mnist"),
        task("MNIST inverted", 1 - m[first], my[first], ten, "mnist/inverted"),
        task("Fashion", f[first], fy[first], clothes, "fashion"),
        task("Fashion turned", np.rot90(f[first], axes=(2, 3)), fy[first], clothes, "fashion/turned"),
        task("MNIST shuffled", m[first], noise, [f"random {d}" for d in ten], "mnist"),
    ]
    targets = [
        task("USPS", u, uy, ten, "usps"),
        task("Fashion inverted", 1 - f[later], fy[later], [f"dark {c}" for c in clothes], "fashion/inverted"),
        task("USPS above four", u, uy > 4, ["at most four", "above four"], "usps"),
        task("MNIST turned", np.rot90(m[later], axes=(2, 3)), my[later], [f"turned {d}" for d in ten], "mnist/turned"),
    ]
    return World(
        "images", Portfolio(sources), targets, CONV, Budget(steps=400, learning_rate=3e-3, batch_size=64), 100,
        lambda _: [20, 50, 100, 200, 500],
    )  # fmt: skip


WORLDS = {"digits": digits, "omniglot": omniglot, "images": images}


def free(task: Task) -> Task:
    """The task without prerequisites: some of them are targets here."""
    made = Task(descriptor=attrs.evolve(task.descriptor, prerequisites=()))
    made.train, made.validation, made.test = task.data("train"), task.data("validation"), task.data("test")
    return made


class Cache:
    """Results by key, in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.known = path, dict[str, Any]()
        for line in path.read_text().splitlines() if path.exists() else ():
            key, value = json.loads(line)
            self.known[key] = value

    def __call__(self, make: Callable[[], Any], *parts: object) -> Any:
        key = key_of(*parts)
        if key not in self.known:
            self.known[key] = make()
            with self.path.open("a") as file:
                file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]


class Bench:
    """One world: what is measured on it, from the cache where it is there."""

    def __init__(self, world: World, seeds: int, means: Sequence[str] = MEANS) -> None:
        self.world, self.seeds, self.wanted = world, range(seeds), means
        self.context = Run(Registry.installed(), store=open_store(str(CACHE / f"promises-{world.name}.db")))
        method = self.context.component("transfer", "lp_ft")
        assert isinstance(method, Transfer)
        self.method = method
        started = time.process_time()
        train_models(self.context, world.spec, list(world.sources), world.train)
        self.say(f"sources trained in {time.process_time() - started:.0f} CPU seconds")
        self.models = dict[tuple[object, ...], torch.nn.Module]()
        self.starts = dict[tuple[str, ...], Start]()
        self.cache = Cache(CACHE / f"promises-{world.name}.jsonl")
        self.about = (world.name, world.spec, world.train, world.steps, [t.fingerprint() for t in world.sources])

    def say(self, text: str) -> None:
        print(f"[{self.world.name}] {text}", flush=True)

    def budget(self, samples: int, rate: float) -> Budget:
        return Budget(steps=self.world.steps, learning_rate=rate, samples=samples, evaluate_every=EVERY)

    def run(self, target: Task, source: str | None, seed: int, rate: float, samples: int, split: str = "test") -> Any:
        """(score, curve) of one training; the curve is on 300 samples of the same split."""

        def make() -> Any:
            shown = Task(descriptor=target.descriptor, train=target.data("train"))
            judged = target.data(split)
            setattr(shown, split, judged)
            shown.validation = judged if split == "validation" else judged.head(300)
            budget = self.budget(samples, rate)
            if source is None:
                template = next(iter(self.world.sources)).model
                assert template is not None
                score, curve = scratch(template, shown, budget, seed, split)
            else:
                known = self.world.sources[source]
                assert known.model is not None
                keep = same_classes(known.descriptor, target.descriptor)
                [(score, curve)], _, _ = transfer_scores(self.method, known.model, shown, budget, [seed], split, keep)
            return [score, list(curve.values)]

        return self.cache(make, "run", self.about, target.fingerprint(), source, seed, rate, samples, split)

    def validated(self, target: Task, stages: Sequence[str] | None, samples: int) -> tuple[float, float]:
        """(the learning rate that does best on validation data over two seeds, its mean score there over four others),
        seeds that nothing else uses; from scratch, from a source or by a curriculum.
        """

        def mean(rate: float) -> float:
            runs = [self.path(target, stages, seed, rate, samples, "validation") for seed in JUDGED]
            return float(sum(score for score, _ in runs) / len(runs))

        best = self.rate_of(target, [stages, stages], samples)
        return best, mean(best)

    def rate_of(self, target: Task, ways: Sequence[Sequence[str] | None], samples: int) -> float:
        """The learning rate that does best on validation data for two examples of a way, each with its own seed."""

        def mean(rate: float) -> float:
            runs = [
                self.path(target, stages, seed, rate, samples, "validation")
                for seed, stages in zip(TUNED, ways, strict=False)
            ]
            return float(sum(score for score, _ in runs) / len(runs))

        return max(RATES, key=mean)

    def discovered(self, target: Task, samples: int) -> dict[str, Any]:
        """Sources in the order in which the graph puts them, the measured ones first, and what it cost.

        The discoverers see `samples` labelled training samples of the target and its validation data.
        """

        def make() -> dict[str, Any]:
            shown = attrs.evolve(drawn(target, samples, 999), test=None)
            tasks = Portfolio([*self.world.sources, shown])
            graph = TransferGraph(t.descriptor for t in tasks)
            started = time.process_time()
            estimator = self.context.component("discovery", "mean_z", {"samples": samples, "keep": False})
            into = [(s.task_id, target.task_id) for s in self.world.sources]
            for edge in estimator.discover(tasks.restricted(into), graph):  # type: ignore[attr-defined]
                graph.add(edge)
            ranked = sorted(into, key=lambda pair: -graph.coefficient(*pair))
            estimated = time.process_time() - started
            options = {"samples": samples, "steps": self.world.steps, "batch_size": 32, "seeds": 3,
                       "learning_rate": self.validated(target, [ranked[0][0]], samples)[0]}  # fmt: skip
            started = time.process_time()
            probe = self.context.component("discovery", "probe", options)
            edges = probe.discover(tasks.restricted(ranked[:3]), graph)  # type: ignore[attr-defined]
            measured = sorted(edges, key=lambda edge: -edge.transfer_coefficient)
            return {
                "order": [e.source for e in measured] + [s for s, _ in ranked[3:]],
                "coefficients": [e.transfer_coefficient for e in measured],
                "seconds": [estimated, time.process_time() - started],
            }

        return dict(self.cache(make, "discovered", "without transrate", self.about, target.fingerprint(), samples))

    def staged(self, stages: Sequence[str], seed: int) -> torch.nn.Module:
        """What a curriculum leaves: the first stage's own model, and each further stage by LP-FT for the world's
        `stage` steps with all its data.
        """
        key = (*stages, seed)
        if key not in self.models:
            task = self.world.sources[stages[-1]]
            if len(stages) == 1:
                assert task.model is not None
                return task.model
            model = self.staged(stages[:-1], seed)
            budget = attrs.evolve(self.world.train, steps=self.world.stage, evaluate_every=1000)
            keep = same_classes(self.world.sources[stages[-2]].descriptor, task.descriptor)
            learner, _, _ = receive(model, task, seed, keep)
            self.method.learn(learner, model, task, budget, torch.Generator().manual_seed(seed))
            self.models[key] = learner
        return self.models[key]

    def path(
        self, target: Task, stages: Sequence[str] | None, seed: int, rate: float, samples: int, split: str = "test"
    ) -> Any:
        """(score, curve) on the target from scratch (no stages), from a source (one), or after a curriculum."""
        if stages is None or len(stages) == 1:
            return self.run(target, stages[0] if stages else None, seed, rate, samples, split)

        def make() -> Any:
            judged = target.data(split)
            shown = Task(descriptor=target.descriptor, train=target.data("train"))
            setattr(shown, split, judged)
            shown.validation = judged if split == "validation" else judged.head(300)
            keep = same_classes(self.world.sources[stages[-1]].descriptor, target.descriptor)
            wanted, model = self.budget(samples, rate), self.staged(stages, seed)
            [(score, curve)], _, _ = transfer_scores(self.method, model, shown, wanted, [seed], split, keep)
            return [score, list(curve.values)]

        where = () if split == "test" else (split,)
        key = ("path", self.world.stage, self.about, target.fingerprint(), list(stages), seed, rate, samples, *where)
        return self.cache(make, *key)

    # The newer means -------------------------------------------------------------------------------------------------

    def gated(self, target: Task, order: Sequence[str], samples: int) -> tuple[list[str] | None, int, int]:
        """(the stages that a gate leaves, none: from scratch; optimiser steps of them with the target, and of all).

        The rule of `TransferEngine.run_curriculum`, with learning rates of the bench: after each step the target is
        learned from its result, and from that source's own model alone; what is best on validation data is kept, and
        the rest undone. So scratch and every single source are among the candidates.
        """
        worth = dict[tuple[str, ...], float]()

        def judge(stages: Sequence[str]) -> float:
            if tuple(stages) not in worth:
                worth[tuple(stages)] = self.validated(target, stages or None, samples)[1]
            return worth[tuple(stages)]

        best: list[str] = []
        judge(best)
        for source in order:
            found = max([*best, source], [source], key=judge)
            if judge(found) > judge(best):
                best = found
        made = {stages[:n] for stages in worth for n in range(2, len(stages) + 1)}
        trainings = len(RATES) * len(TUNED) + len(JUDGED)
        tried = len(worth) * trainings * self.world.steps
        tried += len(made) * (len(TUNED) + len(JUDGED)) * self.world.stage
        own = self.world.steps + max(0, len(best) - 1) * self.world.stage
        return best or None, own, own + tried

    def together(self, target: Task, found: dict[str, Any]) -> list[str]:
        """The measured sources that several are learned from at once: none that hurts, none that learned nothing."""
        pairs = zip(found["order"], found["coefficients"], strict=False)
        names = [s for s, gain in pairs if gain >= 0 and not learned_nothing(self.world.sources[s])]
        return names or found["order"][:1]

    def work(self, target: Task, names: Sequence[str], samples: int, rate: float) -> Work:
        sources = [self.world.sources[name] for name in names]
        return Work(self.context, self.method, sources, target, self.world.train, self.budget(samples, rate))

    def several(self, use: str) -> MultiSource:
        made = self.context.component("transfer", use, {"judge_on": "validation"} if use == "best_of" else {})
        assert isinstance(made, MultiSource)
        return made

    def beside(self, target: Task, names: Sequence[str]) -> Start:
        """What `concat_joint` starts from: the best source's trunk beside one that was trained on the others."""
        key = ("beside", target.task_id, *names)
        if key not in self.starts:
            [self.starts[key]] = self.several("concat_joint").starts(self.work(target, names, 1, 1e-3))
        return self.starts[key]

    def from_several(
        self, use: str, target: Task, names: Sequence[str], seed: int, rate: float, samples: int, split: str = "test"
    ) -> dict[str, Any]:
        """Score on the split and curve (not of `best_of`), steps of the answer and of all that was tried for it."""

        def make() -> dict[str, Any]:
            if use == "best_of":
                work = self.work(target, names, samples, rate)
                done = self.several(use).measured(work, [], work.draws([seed]), split)
                assert done.search is not None
                return {"score": done.score.mean, "curve": [], "own": done.cost.steps, "all": done.search.steps,
                        "chosen": done.chosen}  # fmt: skip
            judged, start = target.data(split), self.beside(target, names)
            shown = Task(descriptor=target.descriptor, train=target.data("train"))
            setattr(shown, split, judged)
            shown.validation = judged if split == "validation" else judged.head(300)
            wanted = self.budget(samples, rate)
            [(score, curve)], _, _ = transfer_scores(
                self.method, start.model, shown, wanted, [seed], split, start.keep_head
            )
            steps = self.work(target, names, samples, rate).cost([start]).steps
            return {"score": score, "curve": list(curve.values), "own": steps, "all": steps, "chosen": ""}

        key = ("several", 1, use, self.about, target.fingerprint(), list(names), seed, rate, samples, split)
        return dict(self.cache(make, *key))

    def means(
        self, target: Task, found: dict[str, Any], single: float, counts: Sequence[int]
    ) -> dict[str, dict[str, Any]]:
        """Of the best single source, with its own rate, and each of `MEANS` that is wanted: scores [seed, place of the
        ladder] for these counts of samples, curves, steps. The gate, like every rate, is decided with the middle of the
        ladder; `best_of` chooses for each seed and number of samples.
        """
        ladder, names = self.world.samples(target), self.together(target, found)
        few, made = ladder[2], dict[str, dict[str, Any]]()
        seconds = self.step_seconds(target)

        def placed(scores: dict[int, list[float]]) -> np.ndarray:
            return np.array([scores.get(n, [math.nan] * len(self.seeds)) for n in ladder]).T

        def along(stages: list[str] | None, rate: float, own: int, tried: int) -> dict[str, Any]:
            runs = {n: [self.path(target, stages, seed, rate, n) for seed in self.seeds] for n in counts}
            return {
                "scores": placed({n: [score for score, _ in done] for n, done in runs.items()}),
                "curves": np.array([curve for _, curve in runs[few]]),
                "chosen": " then ".join(stages or ["scratch"]), "own": own, "all": tried,
                "extra": own - self.world.steps, "seconds": seconds, "by_head": stages is not None,
            }  # fmt: skip

        choosing = len(RATES) * len(TUNED) * self.world.steps
        made[SINGLE] = along(found["order"][:1], single, self.world.steps, self.world.steps + choosing)
        for use in self.wanted:
            if use == "gated":
                stages, own, tried = self.gated(target, found["order"][:3][::-1], few)
                made[use] = along(stages, self.validated(target, stages, few)[0], own, tried)
                continue

            def mean(rate: float, use: str = use) -> float:
                runs = [self.from_several(use, target, names, seed, rate, few, "validation") for seed in TUNED]
                return float(np.mean([run["score"] for run in runs]))

            rate = max(RATES, key=mean)
            places = counts if use == "concat_joint" else [ladder[0], few]  # each place is a choice of its own
            done = {n: [self.from_several(use, target, names, s, rate, n) for s in self.seeds] for n in places}
            tries = [self.from_several(use, target, names, s, r, few, "validation") for s in TUNED for r in RATES]
            beside = self.beside(target, names)
            joint = sum(cost.steps for cost in beside.spent.values())
            # Trunks are trained once for all tries: `best_of` has one of all sources besides.
            once = joint if use == "concat_joint" else joint + self.world.train.steps * (len(names) > 1)
            more = sum(run["all"] - once for run in tries)
            made[use] = {
                "scores": placed({n: [run["score"] for run in runs] for n, runs in done.items()}),
                "curves": np.array([run["curve"] for run in done[few]]),
                "chosen": ", ".join(sorted({run["chosen"] for run in done[few]} - {""})),
                "own": float(np.mean([run["own"] for run in done[few]])),
                "all": float(np.mean([run["all"] for run in done[few]])) + more,
                "extra": joint,
                "seconds": self.step_seconds(target, beside),
                "by_head": True,
            }
        return made

    def step_seconds(self, target: Task, start: Start | None = None) -> tuple[float, float]:
        """CPU seconds of a step on the whole model, and of a step on the head alone; medians of seven, interleaved. Of
        a source's model, or of what several are learned from.
        """

        def make() -> list[float]:
            template = next(iter(self.world.sources)).model if start is None else start.model
            assert template is not None
            model, times = fresh_model(template, target, 0), ([], [])
            plain = Task(descriptor=target.descriptor, train=target.data("train"))
            budget = attrs.evolve(self.budget(self.world.samples(target)[2], 1e-3), evaluate_every=1000)
            for _ in range(7):
                started = time.process_time()
                fit(model, plain, budget, torch.Generator().manual_seed(0))
                whole = (time.process_time() - started) / budget.steps
                started = time.process_time()
                self.method.learn(model, template, plain, budget, torch.Generator().manual_seed(0))
                both = (time.process_time() - started) / budget.steps
                times[0].append(whole)
                times[1].append(2 * both - whole)  # half of LP-FT's steps are on the head alone
            return [float(np.median(t)) for t in times]

        of = () if start is None else (list(start.sources),)
        return tuple(self.cache(make, "seconds", self.about, target.fingerprint(), *of))

    def measure(self, target: Task) -> dict[str, Any]:
        """Everything about one target; arrays [seed, …]."""
        ladder = self.world.samples(target)
        few = ladder[2]
        rng = np.random.default_rng([7, *target.task_id.encode()])
        found = self.discovered(target, few)
        best = found["order"][:3]
        # The probe compares at one learning rate, the source's. Here scratch has its own: what beats that is taken. A
        # curriculum must be two points better: its stages take longer than the target.
        ways_in: list[list[str] | None] = [None, best[:1], best[::-1]]
        tuned = [self.validated(target, way, few) for way in ways_in]
        quick = int(found["coefficients"][0] > 0 and tuned[1][1] > tuned[0][1])
        number = 2 if tuned[2][1] > tuned[quick][1] + 0.02 else quick
        chosen = ways_in[number]

        def runs(way: int, samples: int) -> list[Any]:
            return [self.path(target, ways_in[way], seed, tuned[way][0], samples) for seed in self.seeds]

        names = self.world.sources.ids
        anyone = [str(rng.choice(names)) for _ in self.seeds]
        trio = [[str(s) for s in rng.choice(names, 3, replace=False)] for _ in self.seeds]
        mixed = [[best[i] for i in rng.permutation(3)] for _ in self.seeds]
        paths = {
            "random source": [[source] for source in anyone],
            "best source": [[found["order"][0]]] * len(self.seeds),
            "curriculum": [best[::-1]] * len(self.seeds),  # the best last
            "random order": mixed,
            "reversed": [best] * len(self.seeds),
            "random curriculum": trio,
        }
        ways = {
            name: [
                self.path(target, stages, seed, self.rate_of(target, each[:2], few), few)
                for seed, stages in zip(self.seeds, each, strict=True)
            ]
            for name, each in paths.items()
        }
        plain, helped = (np.array([[s for s, _ in runs(source, n)] for n in ladder]).T for source in (0, number))
        return {
            "target": target.task_id,
            "chosen": chosen and " then ".join(chosen),
            "quick": bool(quick),
            "order": found["order"],
            "coefficients": found["coefficients"],
            "cost": found["seconds"],
            "rates": [tuned[0][0], tuned[number][0]],
            "ladder": ladder,
            "plain": plain,
            "helped": helped,
            "plain_curve": np.array([curve for _, curve in runs(0, few)]),
            "helped_curve": np.array([curve for _, curve in runs(quick, few)]),
            "ways": {name: np.array([score for score, _ in done]) for name, done in ways.items()},
            "way_curves": {name: np.array([curve for _, curve in done]) for name, done in ways.items()},
            "seconds": self.step_seconds(target),
            "means": self.means(target, found, tuned[1][0], ladder),
        }

    def measure_means(self, target: Task) -> dict[str, Any]:
        """The newer means alone, with the lowest and the middle number of samples."""
        ladder, found = self.world.samples(target), self.discovered(target, self.world.samples(target)[2])
        few, rates = ladder[2], [self.rate_of(target, [way, way], ladder[2]) for way in (None, found["order"][:1])]
        plain = np.full((len(self.seeds), len(ladder)), np.nan)
        for place in (0, 2):
            plain[:, place] = [self.path(target, None, seed, rates[0], ladder[place])[0] for seed in self.seeds]
        return {
            "target": target.task_id,
            "order": found["order"],
            "coefficients": found["coefficients"],
            "cost": found["seconds"],
            "ladder": ladder,
            "plain": plain,
            "plain_curve": np.array([self.path(target, None, seed, rates[0], few)[1] for seed in self.seeds]),
            "seconds": self.step_seconds(target),
            "means": self.means(target, found, rates[1], [ladder[0], few]),
        }

    # Without training ------------------------------------------------------------------------------------------------

    def zero_shot(self) -> dict[str, list[tuple[float, float]]]:
        """(score, score of full training) of models synthesised for unseen tasks, by case."""
        cases = {"digits": self._zero_digits, "images": self._zero_usps, "omniglot": self._zero_alphabet}
        return dict(self.cache(cases[self.world.name], "zero-shot", self.about, len(self.seeds)))

    def _synthesised(self, sources: Sequence[Task], unseen: Task, seed: int) -> tuple[float, float]:
        train = self.world.train
        with TransferEngine(model=self.world.spec, train=train, discoverers=("skills",), seed=seed) as engine:
            for task in sources:
                own = Task(descriptor=task.descriptor, train=task.data("train"), validation=task.data("validation"))
                engine.register_task(own, trained_model=task.model)
            engine.register_task(unseen, unseen=True)
            made = judged(engine, engine.synthesize_zero_shot_model(unseen.task_id), unseen.task_id)
        assert made.score is not None
        assert made.full_training_score is not None
        return made.score, made.full_training_score

    def _zero_digits(self) -> dict[str, list[tuple[float, float]]]:
        """Mixes of four digits, from `low` and `high` (no source has all four), and with the ten-class models too."""
        loaded = Registry.installed().create("source", "digits").load()  # type: ignore[attr-defined]
        two = [free(loaded[name]) for name in ("low", "high")]
        more = [*two, *(free(loaded[name]) for name in ("digits", "inverted", "rotated", "parity"))]
        found: dict[str, list[tuple[float, float]]] = {"from two halves": [], "with ten-class models": []}
        for seed in self.seeds:
            rng = np.random.default_rng(seed)
            four = sorted([*rng.choice(5, 2, replace=False), *(5 + rng.choice(5, 2, replace=False))])
            mix = subset(loaded["digits"], [int(d) for d in four])
            found["from two halves"].append(self._synthesised(two, mix, seed))
            found["with ten-class models"].append(self._synthesised(more, mix, seed))
        return found

    def _zero_usps(self) -> dict[str, list[tuple[float, float]]]:
        """USPS from MNIST's models: the same classes, other images."""
        sources = [task for task in self.world.sources if task.task_id in ("MNIST", "MNIST inverted", "Fashion")]
        return {"USPS from MNIST": [self._synthesised(sources, self.world.targets[0], 0)]}

    def _zero_alphabet(self) -> dict[str, list[tuple[float, float]]]:
        """An alphabet from others: no class in common."""
        try:
            made = self._synthesised(list(self.world.sources)[:2], self.world.targets[0], 0)
        except CrosstaskError as error:
            self.say(f"zero-shot refused: {error}")
            return {"another alphabet": []}
        return {"another alphabet": [made]}


def subset(task: Task, classes: list[int]) -> Task:
    """The task with some of its classes only, in this order."""
    told = task.descriptor
    names = tuple(told.classes[c] for c in classes)
    made = Task(
        descriptor=attrs.evolve(
            told, task_id="mix " + " ".join(names), output_dim=len(names), classes=names, prerequisites=(),
            sample_count=None, required_skills=told.required_skills,
        )
    )  # fmt: skip
    for split in ("train", "validation", "test"):
        data = task.data(split)
        kept = torch.isin(data.targets, torch.tensor(classes))
        labels = torch.tensor([classes.index(int(label)) for label in data.targets[kept]])
        setattr(made, split, TensorData(data.inputs[kept], labels))
    return made


# From runs to promises ---------------------------------------------------------------------------------------------


def reached(curve: np.ndarray, level: float) -> float:
    """Steps until a curve is at `level` for the first time, between two points by interpolation; all of them and one
    interval more, if it never is.
    """
    at = np.flatnonzero(curve >= level)
    if len(at) == 0:
        return float(EVERY * len(curve))
    if at[0] == 0:
        return 0.0
    before, after = curve[at[0] - 1], curve[at[0]]
    return EVERY * float(at[0] - 1 + (level - before) / (after - before))


def seconds_to(steps: float, made: dict[str, Any], transfer: bool) -> float:
    """CPU seconds of so many steps: LP-FT's first half trains the head alone."""
    whole, head = made["seconds"]
    half = EVERY * (made["plain_curve"].shape[1] - 1) / 2
    return min(steps, half) * head + max(0.0, steps - half) * whole if transfer else steps * whole


def level_of(made: dict[str, Any]) -> float:
    """The fixed accuracy of a target: 95 % of what scratch ends with, over all seeds."""
    return 0.95 * float(made["plain_curve"][:, -1].mean())


def time_saved(made: dict[str, Any], pick: np.ndarray) -> float:
    level = level_of(made)
    without = seconds_to(reached(made["plain_curve"][pick].mean(axis=0), level), made, transfer=False)
    steps = reached(made["helped_curve"][pick].mean(axis=0), level)
    return 1 - seconds_to(steps, made, transfer=made["quick"]) / without


def epochs_saved(made: dict[str, Any], pick: np.ndarray) -> float:
    """Of the epochs until a curve is at 98 % of its own end."""
    ends = [made[name][pick].mean(axis=0) for name in ("helped_curve", "plain_curve")]
    helped, plain = (reached(curve, 0.98 * curve[-1]) for curve in ends)
    return 1 - helped / plain


def epochs_to_scratch(made: dict[str, Any], pick: np.ndarray) -> float:
    """Of the epochs until a curve is at 98 % of where scratch ends."""
    level = 0.98 * float(made["plain_curve"][:, -1].mean())
    helped, plain = (
        max(EVERY, reached(made[name][pick].mean(axis=0), level)) for name in ("helped_curve", "plain_curve")
    )
    return 1 - helped / plain


def log_samples(made: dict[str, Any], pick: np.ndarray) -> float:
    """log of (samples from scratch / samples with transfer) to what scratch reaches with the middle of the ladder."""
    return log_fewer(made, made["helped"][pick].mean(axis=0))


def log_fewer(made: dict[str, Any], curve: np.ndarray) -> float:
    """The same for scores over the ladder."""
    level, ladder = made["plain"][:, 2].mean(), np.log(made["ladder"])
    at = np.flatnonzero(curve >= level)
    if len(at) == 0:
        needed = ladder[-1]
    elif at[0] == 0:
        needed = ladder[0]
    else:
        before, after = curve[at[0] - 1], curve[at[0]]
        needed = ladder[at[0] - 1] + (level - before) / (after - before) * (ladder[at[0]] - ladder[at[0] - 1])
    return float(ladder[2] - needed)


def points(place: int) -> Callable[[dict[str, Any], np.ndarray], float]:
    return lambda made, pick: 100 * float((made["helped"] - made["plain"])[pick, place].mean())


def way(first: str, second: str) -> Callable[[dict[str, Any], np.ndarray], float]:
    return lambda made, pick: 100 * float((made["ways"][first] - made["ways"][second])[pick].mean())


def faster(first: str, second: str) -> Callable[[dict[str, Any], np.ndarray], float]:
    """Share of the steps to the fixed accuracy that one way saves against another."""

    def saved(made: dict[str, Any], pick: np.ndarray) -> float:
        level = level_of(made)
        one, other = (max(EVERY, reached(made["way_curves"][w][pick].mean(axis=0), level)) for w in (first, second))
        return math.log(one / other)

    return saved


def over(mean: str, than: str | None, place: int) -> Callable[[dict[str, Any], np.ndarray], float]:
    """Points of one of the means over another, or over scratch."""

    def gain(made: dict[str, Any], pick: np.ndarray) -> float:
        control = made["plain"] if than is None else made["means"][than]["scores"]
        return 100 * float((made["means"][mean]["scores"] - control)[pick, place].mean())

    return gain


def time_by(mean: str) -> Callable[[dict[str, Any], np.ndarray], float]:
    """Share of scratch's CPU time to the fixed accuracy that is saved, on the target alone."""

    def saved(made: dict[str, Any], pick: np.ndarray) -> float:
        level, own = level_of(made), made["means"][mean]
        without = seconds_to(reached(made["plain_curve"][pick].mean(axis=0), level), made, transfer=False)
        steps = reached(own["curves"][pick].mean(axis=0), level)
        return 1 - seconds_to(steps, {**made, "seconds": own["seconds"]}, transfer=own["by_head"]) / without

    return saved


def steps_saved(mean: str, *, counted: bool) -> Callable[[dict[str, Any], np.ndarray], float]:
    """Share of scratch's steps to the fixed accuracy that are saved; `counted`: with those made for the target before,
    stages and joint training.
    """

    def saved(made: dict[str, Any], pick: np.ndarray) -> float:
        level, own = level_of(made), made["means"][mean]
        helped, plain = (max(EVERY, reached(c[pick].mean(axis=0), level)) for c in (own["curves"], made["plain_curve"]))
        return 1 - (helped + counted * own["extra"]) / plain

    return saved


def steps_against_single(mean: str) -> Callable[[dict[str, Any], np.ndarray], float]:
    """log of (steps to the fixed accuracy on the target / those from the best single source)."""

    def saved(made: dict[str, Any], pick: np.ndarray) -> float:
        curves = (made["means"][mean]["curves"], made["means"][SINGLE]["curves"])
        one, other = (max(EVERY, reached(c[pick].mean(axis=0), level_of(made))) for c in curves)
        return math.log(one / other)

    return saved


def epochs_by(mean: str) -> Callable[[dict[str, Any], np.ndarray], float]:
    """Of the epochs until a curve is at 98 % of where scratch ends."""

    def saved(made: dict[str, Any], pick: np.ndarray) -> float:
        level, curves = 0.98 * float(made["plain_curve"][:, -1].mean()), made["means"][mean]["curves"]
        helped, plain = (max(EVERY, reached(c[pick].mean(axis=0), level)) for c in (curves, made["plain_curve"]))
        return 1 - helped / plain

    return saved


def samples_by(mean: str) -> Callable[[dict[str, Any], np.ndarray], float]:
    return lambda made, pick: log_fewer(made, made["means"][mean]["scores"][pick].mean(axis=0))


PERCENT, TIMES, POINTS, FEWER = "%", "x", "points", "% fewer"
PLACES = (("middle", 2), ("lowest", 0))
Row = tuple[str, Callable[[dict[str, Any], np.ndarray], float], str, float | None]


def rows_of(mean: str, *, ladder: bool = True) -> list[Row]:
    """What is told of one of the means; `ladder`: all numbers of samples were measured."""
    rows: list[Row] = [(f"{mean}: over scratch, {name}", over(mean, None, place), POINTS, 7) for name, place in PLACES]
    if mean != SINGLE:
        rows += [
            (f"{mean}: over the best source, {name}", over(mean, SINGLE, place), POINTS, None) for name, place in PLACES
        ]
    if mean == "best_of":  # shows no curve
        return rows
    rows += [
        (f"{mean}: CPU time to 95 % of scratch's accuracy, on the target: saved", time_by(mean), PERCENT, 40),
        (f"{mean}: steps to it, on the target: saved", steps_saved(mean, counted=False), PERCENT, 40),
        (f"{mean}: steps to it, with those before: saved", steps_saved(mean, counted=True), PERCENT, 40),
    ]
    if mean != SINGLE:
        rows.append((f"{mean}: steps to it, against the best source", steps_against_single(mean), FEWER, None))
    rows.append((f"{mean}: epochs to 98 % of scratch's end: saved", epochs_by(mean), PERCENT, 35))
    if ladder:
        rows.append((f"{mean}: samples to scratch's accuracy: fewer by", samples_by(mean), TIMES, 2.5))
    return rows


PROMISES: list[Row] = [
    ("CPU time to 95 % of scratch's accuracy: saved", time_saved, PERCENT, 40),
    ("samples to scratch's accuracy: fewer by", log_samples, TIMES, 2.5),
    ("accuracy with few samples", points(1), POINTS, 7),
    ("accuracy with very few samples", points(0), POINTS, 7),
    ("epochs to 98 % of the own end: saved", epochs_saved, PERCENT, 35),
    ("epochs to 98 % of scratch's end: saved", epochs_to_scratch, PERCENT, 35),
    ("best source against a random one", way("best source", "random source"), POINTS, None),
    ("the same, steps to the accuracy", faster("best source", "random source"), FEWER, None),
    ("curriculum against a random one", way("curriculum", "random curriculum"), POINTS, 10),
    ("the same, steps to the accuracy", faster("curriculum", "random curriculum"), FEWER, 40),
    ("order alone: best last against random order", way("curriculum", "random order"), POINTS, None),
    ("order alone: best last against reversed", way("curriculum", "reversed"), POINTS, None),
    ("curriculum against its best source alone", way("curriculum", "best source"), POINTS, None),
    *(row for mean in (SINGLE, *MEANS) for row in rows_of(mean)),
]


def interval(
    measure: Callable[[dict[str, Any], np.ndarray], float], found: list[dict[str, Any]], draws: int = 2000
) -> tuple[float, float, float]:
    """Mean over targets, and its 95 % interval by bootstrap over targets and, in each, over seeds."""
    seeds = len(found[0]["plain"])
    rng = np.random.default_rng(0)
    mean = float(np.mean([measure(made, np.arange(seeds)) for made in found]))
    again = [
        np.mean([measure(found[t], rng.integers(seeds, size=seeds)) for t in rng.integers(len(found), size=len(found))])
        for _ in range(draws)
    ]
    low, high = np.quantile(again, (0.025, 0.975))
    return mean, float(low), float(high)


def shown(values: tuple[float, float, float], unit: str) -> tuple[float, float, float]:
    """The values in the unit they are promised in."""
    if unit == PERCENT:
        return tuple(100 * v for v in values)  # type: ignore[return-value]
    if unit == TIMES:
        return tuple(math.exp(v) for v in values)  # type: ignore[return-value]
    if unit == FEWER:
        mean, low, high = (100 * (1 - math.exp(v)) for v in values)
        return mean, high, low
    return values


def verdict(values: tuple[float, float, float], wanted: float | None, unit: str) -> str:
    """A promise holds if the mean reaches it; without a promised figure, whether there is an effect at all."""
    nothing = 1 if unit == TIMES else 0
    if wanted is None:
        return "yes" if values[1] > nothing else "harm" if values[2] < nothing else "not certain"
    if values[0] >= wanted:
        return "holds" if values[1] > nothing else "holds, not certain"
    return "less" if values[1] > nothing else "does not hold"


def table(found: list[dict[str, Any]], promises: Sequence[Row]) -> list[str]:
    rows = []
    for name, measure, unit, wanted in promises:
        values = shown(interval(measure, found), unit)
        told = f"{values[0]:.1f} {unit} [{values[1]:.1f}, {values[2]:.1f}]"
        rows.append(
            f"| {name} | {'' if wanted is None else f'{wanted:g}'} | {told} | {verdict(values, wanted, unit)} |"
        )
    return rows


def plot(results: dict[str, list[dict[str, Any]]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(4.2 * len(results), 6.4), squeeze=False)
    looks = {"plain": ("from scratch", "#d55e00", "--"), "helped": ("discovered source", "#0072b2", "-"),
             "random source": ("random source", "#5a6573", ":")}  # fmt: skip
    for column, (name, found) in enumerate(results.items()):
        top, bottom = axes[:, column]
        curves = {
            "plain": np.stack([made["plain_curve"].mean(axis=0) for made in found]),
            "helped": np.stack([made["helped_curve"].mean(axis=0) for made in found]),
            "random source": np.stack([made["way_curves"]["random source"].mean(axis=0) for made in found]),
        }
        steps = EVERY * np.arange(curves["plain"].shape[1])
        for key, values in curves.items():
            label, colour, dash = looks[key]
            top.plot(steps, values.mean(axis=0), dash, color=colour, label=label, lw=2)
        top.set(
            title=f"{name}: {len(found)} target{'s' * (len(found) > 1)}",
            xlabel="steps",
            ylabel="test accuracy, mean over targets",
        )
        top.legend(frameon=False, fontsize=8)
        places = np.arange(len(found[0]["ladder"]))
        for key in ("plain", "helped"):
            label, colour, dash = looks[key]
            values = np.stack([made[key].mean(axis=0) for made in found])
            spread = np.stack([made[key].std(axis=0, ddof=1) for made in found]).mean(axis=0)
            bottom.errorbar(places, values.mean(axis=0), spread, fmt=dash, color=colour, label=label, lw=2, capsize=3)
        names = ["1", "2", "3", "5", "10"] if name == "omniglot" else [str(n) for n in found[0]["ladder"]]
        bottom.set_xticks(places, names)
        bottom.set(xlabel="shots" if name == "omniglot" else "training samples", ylabel="test accuracy")
    figure.tight_layout()
    IMAGE.parent.mkdir(exist_ok=True)
    figure.savefig(IMAGE, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--targets", nargs="*", help="only these, for one world: several calls share the work")
    parser.add_argument("--means", nargs="*", choices=MEANS, help="only these newer means, with two numbers of samples")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.worlds:
        bench = Bench(WORLDS[name](), options.seeds, options.means or MEANS)
        started = time.process_time()
        results[name] = []
        for target in bench.world.targets:
            if options.targets and target.task_id not in options.targets:
                continue
            made = bench.measure_means(target) if options.means else bench.measure(target)
            results[name].append(made)
            few = made["ladder"][2]
            told = f"{made['target']}: with {few} samples scratch {made['plain'][:, 2].mean():.3f}"
            if not options.means:
                told += (
                    f", from {made['chosen']} ({made['coefficients'][0]:+.2f}) {made['helped'][:, 2].mean():.3f}, "
                    f"random source {made['ways']['random source'].mean():.3f}, "
                    f"curriculum {made['ways']['curriculum'].mean():.3f}; rates {made['rates']}"
                )
            bench.say(f"{told}; {time.process_time() - started:.0f} CPU seconds so far")
            for mean, own in made["means"].items():
                low, middle = (
                    100 * (own["scores"] - made["means"][SINGLE]["scores"])[:, place].mean() for place in (0, 2)
                )
                bench.say(
                    f"    {mean}: over scratch {100 * (own['scores'] - made['plain'])[:, 2].mean():+.1f}, over the "
                    f"best source {middle:+.1f} (lowest {low:+.1f}); chose {own['chosen'] or '–'}; "
                    f"steps {own['own']:.0f}, all {own['all']:.0f}"
                )
        for mean in (SINGLE, *bench.wanted):
            own, every = (np.mean([made["means"][mean][k] for made in results[name]]) for k in ("own", "all"))
            print(f"{mean}: {own:.0f} steps, {every:.0f} with all that was tried")
        promises = PROMISES
        if options.means:
            promises = [row for mean in (SINGLE, *bench.wanted) for row in rows_of(mean, ladder=False)]
        print(
            "\n".join(["| promise | promised | measured | |", "|---|---|---|---|", *table(results[name], promises)]),
            flush=True,
        )
        cases = {} if options.means else bench.zero_shot()
        for case, pairs in cases.items():
            shares = [100 * score / full for score, full in pairs]
            if shares:
                told = (
                    f"{np.mean(shares):.1f} % of full training ({min(shares):.1f} to {max(shares):.1f}, {len(shares)})"
                )
                print(f"zero-shot, {case}: {told}; accuracies {np.mean(pairs, axis=0).round(3).tolist()}")
        cost = np.mean([made["cost"] for made in results[name]], axis=0)
        print(f"discovery per target: estimates {cost[0]:.1f} s, measurements {cost[1]:.1f} s of CPU", flush=True)
    if options.plot and not options.means:
        plot(results)


if __name__ == "__main__":
    main()
