"""What a gate buys: python tests/benchmarks/curricula.py [digits omniglot images] [--seeds 5]

On each world of `promises.py`, six held-out targets with few samples: sources are ranked by `mean_z`, the best four are
measured by `probe`, and a curriculum of three leads to the target, with and without its gate, by each of two planners.
Beside it the single source that had the best measured coefficient, from the same seeds, samples and steps. Scores are
on test data, what decides is the target's validation data. Prints a table: points over scratch, over the single source
(mean over targets, 95 % interval over targets of the mean over seeds), optimiser steps, and whether the score lay in
the interval that the plan had expected.
"""

import argparse
import time
from typing import Any

import attrs
import numpy as np
from places import DATA
from promises import WORLDS, World, free
from scipy import stats

from crosstask.descriptors import TensorData
from crosstask.engine import TransferEngine
from crosstask.learning.transferring import same_classes, scratch_seeds, transfer_scores
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import SPLITS, Task

PLANNERS = ("transfer_potential", "adaptive_difficulty")


def asked_otherwise(task: Task, name: str, classes: tuple[str, ...], yes: set[int]) -> Task:
    """A yes-no question about the same images."""

    def split(data: TensorData) -> TensorData:
        answers = np.isin(data.targets.numpy(), sorted(yes)).astype(np.int64)
        return TensorData(data.inputs, data.targets.new_tensor(answers))

    told = attrs.evolve(task.descriptor, task_id=name, classes=classes, output_dim=2)
    return Task(descriptor=told, **{s: split(task.data(s)) for s in SPLITS if task.has_data(s)})


def world(name: str) -> World:
    """A world with six targets."""
    found = WORLDS[name]()
    if name == "omniglot":
        more = {"alphabets": ("Arcadian",), "unseen": ("Glagolitic", "Malayalam"), "size": 14}
        made = Registry.installed().create("source", "omniglot", {**more, "path": str(DATA)})
        found.targets.extend(made.load().unseen)  # type: ignore[attr-defined]
    if name == "images":
        usps, fashion = found.targets[0], found.targets[1]
        found.targets.append(asked_otherwise(usps, "USPS parity", ("even", "odd"), {1, 3, 5, 7, 9}))
        found.targets.append(asked_otherwise(fashion, "Fashion inverted: shoes", ("other", "shoe"), {5, 7, 9}))
    return found


def measure(known: World, target: Task, seeds: int) -> dict[str, Any]:
    """Scores [seed] of every way to one target, and what they cost."""
    few = known.samples(target)[2]
    budget = Budget(steps=known.steps, learning_rate=3e-3, samples=few, evaluate_every=known.steps)
    train = attrs.evolve(known.train, evaluate_every=known.train.steps)
    options = {"samples": few, "keep": False}
    with TransferEngine(model=known.spec, train=train, budget=budget, seeds=seeds, discoverers=(), auto_discover=False,
                        transfer="lp_ft") as engine:  # fmt: skip
        for source in known.sources:
            engine.register_task(free(source))
        engine.register_task(free(target))
        engine.train([s.task_id for s in known.sources])
        into = [(s.task_id, target.task_id) for s in known.sources]
        estimator = engine.run.component("discovery", "mean_z", options)
        edges = estimator.discover(engine.portfolio.restricted(into), engine.graph)
        ranked = sorted(edges, key=lambda e: -e.transfer_coefficient)[:4]
        probe = engine.run.component("discovery", "probe", {"samples": few, "steps": known.steps, "batch_size": 32,
                                     "seeds": 3, "learning_rate": 3e-3})  # fmt: skip
        best = [(e.source, target.task_id) for e in ranked]
        for edge in probe.discover(engine.portfolio.restricted(best), engine.graph):
            engine.graph.add(edge)
        single = engine.graph.best_sources(target.task_id, 1, minimum=-1.0)[0].source
        source, goal = engine.portfolio[single], engine.portfolio[target.task_id]
        numbers = scratch_seeds(engine.run, goal, seeds)
        keep = same_classes(source.descriptor, goal.descriptor)
        assert source.model is not None
        runs, _, _ = transfer_scores(engine.method(), source.model, goal, budget, numbers, "test", keep)
        found: dict[str, Any] = {"single": [s for s, _ in runs], "source": single, "steps": {"single": budget.steps}}
        for planner in PLANNERS:
            plan = engine.generate_curriculum(target.task_id, planner, 4)
            for gate in (False, True):
                name = f"{planner}, {'gate' if gate else 'no gate'}"
                done = engine.run_curriculum(plan, planner=planner, gate=gate)
                found[name] = done.steps[-1].score.values
                found["scratch"] = done.steps[-1].scratch_score.values
                found["steps"][name] = done.total_steps + done.trial_steps
                found[f"{name} expected"] = done.as_expected
                found[f"{name} from"] = done.reached_from
    return found


def interval(values: list[float]) -> str:
    mean, error = float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else float("nan")
    return f"{100 * mean:+.1f} ± {100 * error * stats.t.ppf(0.975, len(values) - 1):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.worlds:
        known, started = world(name), time.process_time()
        rows = []
        for target in known.targets:
            rows.append(measure(known, target, arguments.seeds))
            told = {k: round(100 * float(np.mean(v)), 1) for k, v in rows[-1].items() if isinstance(v, list | tuple)}
            chosen = [rows[-1][f"{p}, gate from"] for p in PLANNERS]
            print(f"[{name}] {target.task_id}: {told}, single {rows[-1]['source']}, gate chose {chosen}", flush=True)
        print(f"\n{name}: {len(rows)} targets, {arguments.seeds} seeds, {time.process_time() - started:.0f} CPU s\n")
        print("| way | over scratch | over the single source | steps | as expected |\n|---|---|---|---|---|")
        for way in ("single", *(f"{p}, {g}" for p in PLANNERS for g in ("no gate", "gate"))):
            over = [[float(np.mean(r[way]) - np.mean(r[than])) for r in rows] for than in ("scratch", "single")]
            held = [r[f"{way} expected"] for r in rows if r.get(f"{way} expected") is not None]
            steps = np.mean([r["steps"][way] for r in rows])
            expected = f"{sum(held)} of {len(held)}" if held else "–"
            than = "–" if way == "single" else interval(over[1])
            print(f"| {way} | {interval(over[0])} | {than} | {steps:.0f} | {expected} |")
        print(flush=True)


if __name__ == "__main__":
    main()
