"""Several sources against the picked single one: python tests/benchmarks/multi_source.py [digits omniglot images]

Three worlds of sources with trained models and held-out targets. For every target all sources are ranked by `mean_z`
on a few labelled samples, and the best four are measured by `probe` on validation data: the graph. The single source is
the best of it, its learning rate the one that does best on validation data; the ways that learn from several sources
get the same rate, steps and samples. Each seed draws samples of the target anew. Test data are used for what is
reported only.

`--explore` shows validation scores of other settings, on seeds that nothing else uses. Results are kept in
`places.CACHE`: a call that was stopped goes on.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import promises
import torch
from places import CACHE, DATA
from promises import CONV, Cache, World, free

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.own_models import train_models
from crosstask.learning.training import evaluate
from crosstask.learning.transferring import drawn
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.tasks import Portfolio, Task
from crosstask_multi_source import MultiSource
from crosstask_multi_source.work import Work, choose_sources

MEASURED = 4
"""Sources of a target that `probe` measures."""
RATES = (1e-3, 3e-3, 1e-2)
WAYS: dict[str, dict[str, Any]] = {
    **{name: {"use": name} for name in ("concat", "joint", "concat_joint", "ensemble")},
    "ensemble with joint": {"use": "ensemble", "members": ["joint", "concat_joint"]},
    "the same, distilled": {"use": "ensemble", "members": ["joint", "concat_joint"], "distill": True},
    "best_of": {"use": "best_of"},
    "best_of by folds": {"use": "best_of", "judge_on": "folds"},
}
EXPLORED: dict[str, dict[str, Any]] = {
    **{f"concat {k}{s}": {"use": "concat", "most": k, "scaled": not s} for k in (2, 3, 4) for s in ("", " unscaled")},
    **{f"joint {k}": {"use": "joint", "most": k} for k in (2, 3, 4, 8)},
    **{f"concat_joint {k}{s}": {"use": "concat_joint", "most": k, "scaled": not s}
       for k in (3, 4, 8) for s in ("", " unscaled")},
    **{f"ensemble {k}": {"use": "ensemble", "most": k} for k in (2, 3, 4)},
    **{f"ensemble with joint {k}": {"use": "ensemble", "members": [
        {"use": "joint", "most": k}, {"use": "concat_joint", "most": k}]} for k in (3, 4, 8)},
}  # fmt: skip


def omniglot() -> World:
    """As in `promises`, with six of the evaluation alphabets as targets."""
    targets = ("Angelic", "Atlantean", "Tengwar", "Sylheti", "Avesta", "Keble")
    known = promises.omniglot()
    options = {
        "alphabets": [t.task_id for t in known.sources if not t.task_id.endswith("shuffled")],
        "unseen": targets, "size": 14, "controls": 1, "path": str(DATA),
    }  # fmt: skip
    loaded = Registry.installed().create("source", "omniglot", options).load()  # type: ignore[attr-defined]
    return attrs.evolve(known, sources=Portfolio(loaded), targets=list(loaded.unseen))


def images() -> World:
    """As in `promises`, with two targets more: the parity of USPS, and garments upside down."""
    known = promises.images()
    usps, dark = known.targets[0], known.targets[1]

    def changed(task: Task, task_id: str, classes: Sequence[str], change: Callable[..., Any]) -> Task:
        told = TaskDescriptor(
            task_id=task_id, domain=task.descriptor.domain, input_shape=(1, 14, 14), output_dim=len(classes),
            classes=tuple(classes), sample_count=task.descriptor.sample_count,
        )  # fmt: skip
        parts = {s: change(task.data(s).inputs, task.data(s).targets) for s in ("train", "validation", "test")}
        return Task(descriptor=told, **parts)  # type: ignore[arg-type]

    parity = changed(usps, "USPS parity", ("even", "odd"), lambda x, y: (x, y % 2))
    flipped = changed(dark, "Fashion upside down", [f"hung {n}" for n in range(10)], lambda x, y: ((1 - x).flip(2), y))
    return attrs.evolve(known, targets=[*known.targets, parity, flipped])


WORLDS = {"digits": promises.digits, "omniglot": omniglot, "images": images}
__all__ = ["CONV", "ModelSpec", "free"]


class Bench:
    """One world: its sources trained, and what is measured on it, from the cache where it is there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.run = Run(Registry.installed(), store=open_store(str(CACHE / f"multi-source-{world.name}.db")))
        method = self.run.component("transfer", "lp_ft")
        assert isinstance(method, Transfer)
        self.method = method
        train_models(self.run, world.spec, list(world.sources), world.train)
        self.cache = Cache(CACHE / f"multi-source-{world.name}.jsonl")
        self.about = (world.name, world.spec, world.train, world.steps, [t.fingerprint() for t in world.sources])
        self.graphs: dict[str, TransferGraph] = {}

    def samples(self, target: Task) -> int:
        ladder = self.world.samples(target)
        return ladder[len(ladder) // 2]

    def budget(self, target: Task, rate: float) -> Budget:
        steps = self.world.steps
        return Budget(steps=steps, learning_rate=rate, samples=self.samples(target), evaluate_every=steps)

    def graph(self, target: Task) -> TransferGraph:
        """What is known of the sources of a target, from `samples` training samples and its validation data."""
        if target.task_id not in self.graphs:
            made = self.cache(lambda: self._discovered(target), "graph", MEASURED, self.about, target.fingerprint())
            self.graphs[target.task_id] = TransferGraph.from_json(made)
        return self.graphs[target.task_id]

    def _discovered(self, target: Task) -> Any:
        samples = self.samples(target)
        shown = attrs.evolve(drawn(target, samples, 999), test=None)
        tasks = Portfolio([*self.world.sources, shown])
        graph = TransferGraph(t.descriptor for t in tasks)
        into = [(s.task_id, target.task_id) for s in self.world.sources]
        estimator = self.run.component("discovery", "mean_z", {"samples": samples, "keep": False})
        for edge in estimator.discover(tasks.restricted(into), graph):  # type: ignore[attr-defined]
            graph.add(edge)
        ranked = sorted(into, key=lambda pair: -graph.coefficient(*pair))
        options = {"samples": samples, "steps": self.world.steps, "batch_size": 32, "seeds": 3, "learning_rate": 3e-3}
        probe = self.run.component("discovery", "probe", options)
        for edge in probe.discover(tasks.restricted(ranked[:MEASURED]), graph):  # type: ignore[attr-defined]
            graph.add(edge)
        return graph.to_json()

    def work(self, target: Task, most: int, rate: float) -> Work:
        """The best sources by the graph: those that were measured before those that were estimated."""
        graph = self.graph(target)
        edges = {e.source: e for e in graph.edges_into(target.task_id)}
        chosen, _ = choose_sources(list(self.world.sources), target, graph, len(self.world.sources))
        chosen.sort(key=lambda t: not edges[t.task_id].measured)
        return Work(self.run, self.method, chosen[:most], target, self.world.train, self.budget(target, rate))

    def rate(self, target: Task) -> float:
        """The learning rate that does best for the single source on validation data, over three seeds."""

        def make() -> float:
            def mean(rate: float) -> float:
                work = self.work(target, 1, rate)
                start = work.single(work.sources[0])
                draws = work.draws([1001, 1002, 1003])
                found = work.learn([start], draws)
                return sum(evaluate(m, target, "validation") for (m,) in found) / len(draws)

            return max(RATES, key=mean)

        return float(self.cache(make, "rate", RATES, self.about, target.fingerprint()))

    def one(self, target: Task, way: dict[str, Any] | None, seed: int, version: int = 3) -> dict[str, Any]:
        """Scores on validation and test data of a way (None: the single source), what it took, what was chosen."""

        def make() -> dict[str, Any]:
            options = {k: v for k, v in (way or {}).items() if k != "use"}
            work = self.work(target, 8, self.rate(target))
            draws = work.draws([seed])
            started = time.process_time()
            chosen = ""
            if way is None:
                starts = [work.single(work.sources[0])]
                ((module,),) = work.learn(starts, draws)
                cost = work.cost(starts)
            else:
                method = self.run.component("transfer", way["use"], options)
                assert isinstance(method, MultiSource)
                done = method.measured(work, [], draws, "test")
                module, cost, chosen = done.model, done.cost, done.chosen
                if done.search is not None:
                    cost = done.search
            return {
                "validation": evaluate(module, target, "validation"), "test": evaluate(module, target, "test"),
                "steps": cost.steps, "samples": cost.samples, "parameters": sum(p.numel() for p in module.parameters()),
                "chosen": chosen, "seconds": time.process_time() - started,
            }  # fmt: skip

        return dict(self.cache(make, "one", version, self.about, target.fingerprint(), way, seed, self.rate(target)))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the 95 % interval) by Student's t."""
    from scipy import stats

    found = np.asarray(values)
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return float(found.mean()), float(half)


def table(bench: Bench, ways: dict[str, dict[str, Any]], seeds: Sequence[int], split: str) -> list[dict[str, Any]]:
    """Each way beside the single source: mean gains over the seeds and targets, with intervals over all pairs of target
    and seed, and over the means of the targets.
    """
    rows = []
    targets = bench.world.targets
    single = {(t.task_id, s): bench.one(t, None, s) for t in targets for s in seeds}
    level = np.mean([found[split] for found in single.values()])
    rows.append({"way": "single", "score": float(level), "found": list(single.values())})
    for name, way in ways.items():
        own = {(t.task_id, s): bench.one(t, way, s) for t in targets for s in seeds}
        gains = np.array([[own[t.task_id, s][split] - single[t.task_id, s][split] for s in seeds] for t in targets])
        rows.append({"way": name, "score": float(np.mean([f[split] for f in own.values()])), "gains": gains,
                     "found": list(own.values())})  # fmt: skip
    return rows


def show(bench: Bench, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{bench.world.name}: {len(bench.world.targets)} targets")
    print(f"{'way':22} {'score':>6} {'gain, points':>16} {'by target':>8} {'worst target':>8} {'steps':>6} "
          f"{'samples':>8} {'weights':>8} {'CPU s':>6}")  # fmt: skip
    for row in rows:
        found = row["found"]
        mean = {k: np.mean([f[k] for f in found]) for k in ("steps", "samples", "parameters", "seconds")}
        gain = worst = over = ""
        if "gains" in row:
            middle, half = interval(100 * row["gains"].ravel())
            gain = f"{middle:+.2f} ± {half:.2f}"
            over = f"± {interval(100 * row['gains'].mean(axis=1))[1]:.2f}"
            worst = f"{100 * row['gains'].mean(axis=1).min():+.1f}"
        print(f"{row['way']:22} {100 * row['score']:6.1f} {gain:>16} {over:>8} {worst:>8} {mean['steps']:6.0f} "
              f"{mean['samples']:8.0f} {mean['parameters']:8.0f} {mean['seconds']:6.2f}")  # fmt: skip
        chosen = [f["chosen"] for f in found if f["chosen"]]
        if len(set(chosen)) > 1:
            print("    chose " + ", ".join(f"{c} {chosen.count(c)}" for c in sorted(set(chosen))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["digits"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="*", choices=[*WAYS, *EXPLORED])
    parser.add_argument("--explore", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        bench = Bench(WORLDS[name]())
        known = EXPLORED if options.explore else WAYS
        ways = {way: {**WAYS, **EXPLORED}[way] for way in options.ways or known}
        seeds = range(501, 501 + options.seeds) if options.explore else range(options.seeds)
        for target in bench.world.targets:
            edges = bench.graph(target).edges_into(target.task_id)
            told = ", ".join(f"{e.source} {e.transfer_coefficient:+.2f}" for e in edges if e.measured)
            print(f"[{name}] {target.task_id} at {bench.rate(target):g} from {told}", flush=True)
        show(bench, table(bench, ways, seeds, "validation" if options.explore else "test"))


if __name__ == "__main__":
    sys.exit(main())
