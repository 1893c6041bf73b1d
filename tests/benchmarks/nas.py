"""Architecture search against random search, Optuna and itself: python tests/benchmarks/nas.py [--only tables,regret,…]

`tables` trains every architecture of two small spaces on digits once (about twenty CPU minutes), kept in
`places.CACHE` and gone on with if it was stopped.
`regret`: how far the best of 25, 50, 100 evaluations is from the best of the table, over seeds.
`large`: drawn tables of 15,625 cells, all of them looked at before each proposal, against some.
`tuning`: continuous functions. `darts`: the rank of its architecture in the table. `warm`: warm starts from a related
task. `adaptive`: AdaptiveOptimizer against Adam from any start rate. Figures as Markdown on stdout; `--plot FILE`.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import numpy as np
import optuna
import torch
from optuna.samplers import GPSampler, TPESampler
from places import CACHE

from crosstask.context import LocalContext
from crosstask.learning.data import batches
from crosstask.learning.fleets import Member, Phase
from crosstask.learning.models import ModelSpec
from crosstask.learning.together import every
from crosstask.learning.training import evaluate, fit
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask_nas import ArchitectureSpace, create_nas_search_space
from crosstask_search.driver import run_search
from crosstask_search.parameter import Parameter
from crosstask_search.records import Trial
from crosstask_search.space import Point, SearchSpace

SEEDS_OF_A_VALUE = 2
BUDGETS = {
    "conv": Budget(steps=120, batch_size=32, learning_rate=5e-3),
    "linear": Budget(steps=80, batch_size=32, learning_rate=3e-3, samples=200),
}


def digits(name: str = "digits") -> Task:
    return Registry.installed().create("source", "digits", {"tasks": [name]}).load()[name]  # type: ignore[attr-defined]


def architectures(kind: str) -> ArchitectureSpace:
    if kind == "conv":
        return create_nas_search_space((1, 8, 8), 10, 3, operations=("conv3", "separable3", "pool"), widths=(4, 8, 16))
    return create_nas_search_space((1, 8, 8), 10, 3, operations=("relu", "tanh", "norm"), widths=(4, 16, 64))


def key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def scored(
    made: ArchitectureSpace, point: Point, task: Task, budget: Budget, together: bool
) -> list[tuple[float, float]]:
    """(validation, test) accuracy of an architecture from each seed; in a fleet, which pays for two seeds where layers
    are convolutions, or one by one.
    """
    members = [
        Member(made.build(point, seed), task, budget, (Phase(budget.steps),), seed) for seed in range(SEEDS_OF_A_VALUE)
    ]

    def judged(member: Member, _: Any = None) -> tuple[float, float]:
        return evaluate(member.model, task, "validation"), evaluate(member.model, task, "test")

    def alone(number: int) -> tuple[float, float]:
        own = attrs.evolve(members[number], model=made.build(point, number))
        fit(own.model, task, budget, torch.Generator().manual_seed(number), curve_split=None)
        return judged(own)

    if not together:
        return [alone(number) for number in range(len(members))]
    found = dict(every(members, members.__getitem__, alone, judged))
    return [found[number] for number in range(len(members))]


def table(kind: str, task_name: str = "digits") -> dict[str, list[float]]:
    """(validation, test) accuracy of every architecture, means over two seeds."""
    path = CACHE / f"nas-{kind}-{task_name}.json"
    found: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
    made = architectures(kind)
    left = [point for point in made.space.points() if key(point) not in found]
    if not left:
        return found
    task, budget, started = digits(task_name), BUDGETS[kind], time.process_time()
    CACHE.mkdir(exist_ok=True)
    for number, point in enumerate(left):
        scores = scored(made, point, task, budget, together=kind == "conv")
        found[key(point)] = [statistics.fmean(column) for column in zip(*scores, strict=True)]
        if number % 50 == 0 or point is left[-1]:
            path.write_text(json.dumps(found))
    print(f"{kind} on {task_name}: {len(left)} architectures, {time.process_time() - started:.0f} CPU s", flush=True)
    return found


Asker = tuple[Callable[[list[Trial]], Point], Callable[[Trial], None]]


def ours(name: str, seed: int, space: SearchSpace, **options: Any) -> Asker:
    """A component of ours, outside a run."""
    component: Any = Registry.installed().create("search", name, options)
    component.bind(LocalContext(seed=seed))
    component.search_begins(space, None, None)
    return lambda trials: component.propose(space, trials), component.observe


def optunas(kind: str, seed: int, space: SearchSpace) -> Asker:
    """Optuna as its documentation says: one study, ask and tell, choices as choices, define by run."""
    sampler: Any = {"tpe": TPESampler, "gp": GPSampler}[kind](seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    open_trials: list[Any] = []

    def ask(trials: list[Trial]) -> Point:
        trial = study.ask()
        open_trials.append(trial)
        point: Point = {}
        for name, parameter in space.parameters.items():
            if space.active(name, point):
                if parameter.choices:
                    point[name] = trial.suggest_categorical(name, parameter.choices)
                else:
                    point[name] = trial.suggest_float(name, parameter.low or 0.0, parameter.high or 0.0)
        return point

    def tell(trial: Trial) -> None:
        study.tell(open_trials.pop(), trial.value)

    return ask, tell


def searched(
    made: Asker, space: SearchSpace, value: Callable[[Point], float], count: int, skip_repeats: bool = False
) -> tuple[list[float], dict[str, float], list[float]]:
    """(best value after each evaluation, every different point's value, CPU seconds of each proposal).

    With `skip_repeats` a point that comes again is told what it came to and does not count (300 times at most).
    """
    ask, tell = made
    trials: list[Trial] = []
    known: dict[str, float] = {}
    best, seconds, skipped = [], [], 0
    while len(best) < count:
        started = time.process_time()
        point = ask(trials)
        seconds.append(time.process_time() - started)
        again = key(point) in known
        known.setdefault(key(point), value(point))
        trials.append(Trial(number=len(trials), point=point, status="done", value=known[key(point)]))
        tell(trials[-1])
        if skip_repeats and again and skipped < 3 * count:
            skipped += 1
            continue
        best.append(max(known.values()))
    return best, known, seconds


METHODS: dict[str, tuple[Callable[[int, SearchSpace], Asker], bool, float]] = {
    # name: (maker, repeats do not count, share of the seeds)
    "random": (lambda seed, space: ours("random", seed, space), False, 1.0),
    "evolutionary": (lambda seed, space: ours("evolutionary", seed, space), False, 1.0),
    "Optuna TPE": (lambda seed, space: optunas("tpe", seed, space), False, 1.0),
    "Optuna TPE, repeats not counted": (lambda seed, space: optunas("tpe", seed, space), True, 0.5),
    "Optuna GP, repeats not counted": (lambda seed, space: optunas("gp", seed, space), True, 0.2),
    "**bayesian**": (lambda seed, space: ours("bayesian", seed, space), False, 1.0),
}


def objective(kind: str, price: float) -> dict[str, float]:
    """Validation accuracy in points of every architecture, less `price` for each doubling of its parameters."""
    made, values = architectures(kind), table(kind)
    sizes = {k: sum(p.numel() for p in made.build(json.loads(k)).parameters()) for k in values} if price else {}
    return {k: 100 * accuracy - (price * math.log2(sizes[k]) if price else 0) for k, (accuracy, _) in values.items()}


SETTINGS = (("conv", 0), ("conv", 2), ("linear", 0))


def regret(seeds: int, plot: Path | None) -> None:
    """What is measured is kept in nas-curves.json: remove what is to be measured anew."""
    path = CACHE / "nas-curves.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for kind, price in SETTINGS:
        values, space, tests = objective(kind, price), architectures(kind).space, table(kind)
        top, title = max(values.values()), f"{kind}, {price} points per doubling" if price else kind
        print(
            f"\n{title}: {len(values)} architectures, best {top:.2f}, median {statistics.median(values.values()):.2f}\n"
        )
        print("| search | @25 | @50 | @100 | test accuracy @100 | different points | proposal | seeds |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")

        def value(point: Point, values: dict[str, float] = values) -> float:
            return values[key(point)]

        rows = []
        for name, (make, skip, share) in METHODS.items():
            if (kind, "Optuna GP" in name) == ("linear", True):
                continue  # it repeats itself hundreds of times there, at 50 to 100 ms each
            count = max(1, round(seeds * share))
            label = f"{title}: {name}, {count} seeds"
            if label not in kept:
                found = [searched(make(seed, space), space, value, 100, skip) for seed in range(count)]
                kept[label] = {
                    "curves": [[top - v for v in best] for best, _, _ in found],
                    "test": statistics.fmean(
                        100 * tests[max(known, key=known.__getitem__)][1] for _, known, _ in found
                    ),
                    "unique": statistics.fmean(len(known) for _, known, _ in found),
                    "proposal": 1000 * statistics.median(s for _, _, seconds in found for s in seconds),
                }
                path.write_text(json.dumps(kept))
            got = kept[label]
            curves.setdefault(title, {})[name] = got["curves"]
            at = {n: statistics.fmean(c[n - 1] for c in got["curves"]) for n in (25, 50, 100)}
            rows.append((at[100], f"| {name} | {at[25]:.2f} | {at[50]:.2f} | {at[100]:.2f} | {got['test']:.2f} | "
                         f"{got['unique']:.0f} | {got['proposal']:.1f} ms | {count} |"))  # fmt: skip
        for _, row in sorted(rows, reverse=True):
            print(row, flush=True)
    if plot is not None:
        draw(curves, plot)


def drawn_table(seed: int) -> np.ndarray:
    """Values [5, 5, 5, 5, 5, 5] of six choices of five: what each adds, what each pair adds, and noise. Variance 1."""
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 0.2, (5,) * 6)
    for one, other in itertools.product(range(6), range(6)):
        shape = [5 if place in (one, other) else 1 for place in range(6)]
        if one <= other:
            size = (5,) if one == other else (5, 5)
            table = table + rng.normal(0, 1.0 if one == other else 0.6, size).reshape(shape)
    return np.asarray(table / table.std())


def large(seeds: int) -> None:
    """Regret in standard deviations of the table, and milliseconds a proposal, interleaved."""
    space = SearchSpace(parameters={f"choice {n}": Parameter(choices=(0, 1, 2, 3, 4)) for n in range(6)})
    print("\n| candidates | regret @50 | @100 | proposal, mean | median |\n|---|---:|---:|---:|---:|")
    ways: dict[str, int] = {"all 15,625": 20_000, "1,500 of them": 0}
    curves: dict[str, list[list[float]]] = {way: [] for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(seeds):
        values = drawn_table(seed)

        def value(point: Point, values: np.ndarray = values) -> float:
            return float(values[tuple(point.values())])

        for way, size in ways.items():
            with mock.patch("crosstask_nas.bayesian._LISTED", size):
                best, _, seconds = searched(ours("bayesian", seed, space), space, value, 100)
            curves[way].append([float(values.max()) - each for each in best])
            times[way] += seconds
    for way in ways:
        found = np.array(curves[way])[:, [49, 99]]
        at = [f"{m:.3f} ± {1.96 * s:.3f}" for m, s in zip(found.mean(0), found.std(0) / math.sqrt(seeds), strict=True)]
        told = [f"{1000 * f(times[way]):.1f} ms" for f in (statistics.fmean, statistics.median)]
        print(f"| {way} | {' | '.join(at + told)} |", flush=True)


def draw(curves: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(3.4 * len(curves), 3.6), squeeze=False)
    colours = {name: f"C{place}" for place, name in enumerate(METHODS)}
    for axis, (kind, found) in zip(axes[0], curves.items(), strict=True):
        for name, lines in found.items():
            mean = np.mean(lines, axis=0)
            width = 2.4 if name.startswith("**") else 1.2
            axis.plot(range(1, len(mean) + 1), mean, colours[name], label=name.strip("*"), linewidth=width)
        axis.set(title=kind, xlabel="evaluations")
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_ylim(0, None)
    axes[0][0].set_ylabel("mean regret (points)")
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncol=3, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def branin(p: Point) -> float:
    x, y = 15 * p["x0"] - 5, 15 * p["x1"]
    bowl = (y - 5.1 / (4 * np.pi**2) * x * x + 5 / np.pi * x - 6) ** 2
    return -float(bowl + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10)


A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
P = 1e-4 * np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
                     [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]])  # fmt: skip


def hartmann(p: Point) -> float:
    x = np.array([p[f"x{i}"] for i in range(6)])
    return float(np.array([1, 1.2, 3, 3.2]) @ np.exp(-(A * (x - P) ** 2).sum(axis=1)))


def rosenbrock(p: Point) -> float:
    x = np.array([4.096 * p[f"x{i}"] - 2.048 for i in range(4)])
    return -float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


FUNCTIONS = {"Branin@40": (branin, 2, 40, -0.397887), "Hartmann-6@60": (hartmann, 6, 60, 3.322368),
             "Rosenbrock-4@60": (rosenbrock, 4, 60, 0.0)}  # fmt: skip


def tuning(seeds: int) -> None:
    print("\n| search | " + " | ".join(FUNCTIONS) + " | proposal | seeds |\n|---|" + "---:|" * (len(FUNCTIONS) + 2))
    for name in ("random", "Optuna TPE", "Optuna GP, repeats not counted", "**bayesian**"):
        make, _, share = METHODS[name]
        share = 0.25 if share < 1 else 1.0
        cells, times = [], []
        count = max(1, round(seeds * share))
        for function, size, evaluations, optimum in FUNCTIONS.values():
            space = SearchSpace(parameters={f"x{i}": Parameter(low=0.0, high=1.0) for i in range(size)})
            found = [searched(make(seed, space), space, function, evaluations) for seed in range(count)]
            cells.append(statistics.median(optimum - best[-1] for best, _, _ in found))
            times += [s for _, _, seconds in found for s in seconds]
        shown = " | ".join(f"{cell:.2g}" for cell in cells)
        label = name.replace(", repeats not counted", "")
        print(f"| {label} | {shown} | {1000 * statistics.median(times):.1f} ms | {count} |", flush=True)


def darts(seeds: int) -> None:
    print("\n| table | order | better architectures in the table (per seed) | CPU s |\n|---|---|---|---:|")
    for kind in BUDGETS:
        values, made, task = table(kind), architectures(kind), digits()
        for order in (1, 2):
            shares, started = [], time.process_time()
            for seed in range(seeds):
                component: Any = Registry.installed().create("search", "darts", {"order": order})
                component.bind(LocalContext(seed=seed))
                own = values[key(component.search(task, made.models))][0]
                shares.append(sum(v > own for v, _ in values.values()) / len(values))
            seconds = (time.process_time() - started) / seeds
            print(f"| {kind} | {order} | {', '.join(f'{share:.1%}' for share in shares)} | {seconds:.1f} |", flush=True)


def warm(seeds: int) -> None:
    """`bayesian` on `rotated`, with and without the three best of a search of 50 on `digits`."""
    space, target, source = architectures("linear").space, table("linear", "rotated"), table("linear")
    top = max(v for v, _ in target.values())
    print("\n| start | @5 | @10 | @25 |\n|---|---:|---:|---:|")
    for starts in (0, 3):
        curves = []
        for seed in range(seeds):
            first = run_search(LocalContext(seed=seed + 1000), "bayesian", space, lambda p: source[key(p)][0], 50)
            best = sorted(first.trials, key=lambda t: -(t.value or 0.0))[:starts]
            points = [trial.point for trial in best]
            found = run_search(
                LocalContext(seed=seed), "bayesian", space, lambda p: target[key(p)][0], 25, warm_starts=points
            )
            curves.append([100 * (top - v) for v in found.curve.values])
        cells = " | ".join(f"{statistics.fmean(c[n - 1] for c in curves):.2f}" for n in (5, 10, 25))
        print(f"| {'the best three of digits' if starts else 'random'} | {cells} |", flush=True)


RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def adaptive(seeds: int) -> None:
    """Test accuracy on digits, MLP 64-64, 500 steps of 32."""
    from crosstask_hpo import AdaptiveOptimizer

    task, loss_function = digits(), torch.nn.functional.cross_entropy
    train, held = task.data("train"), task.data("validation")
    print("\n| optimiser | " + " | ".join(f"{rate:g}" for rate in RATES) + " |\n|---|" + "---:|" * len(RATES))
    for name in ("Adam", "AdaptiveOptimizer, no guard", "AdaptiveOptimizer", "AdaptiveOptimizer, validation"):
        cells = []
        for rate in RATES:
            scores = []
            for seed in range(seeds):
                model = ModelSpec().build(task.descriptor, seed)
                optimizer = AdaptiveOptimizer(
                    model, learning_rate=rate, use_meta_learning=name != "Adam", guard="no guard" not in name
                )
                exams = batches(len(held), 64, torch.Generator().manual_seed(seed + 1))

                def examined(model: Any = model, exams: Any = exams) -> torch.Tensor:
                    index = next(exams)
                    return loss_function(model(held.inputs[index]), held.targets[index])

                for index, _ in zip(
                    batches(len(train), 32, torch.Generator().manual_seed(seed)), range(500), strict=False
                ):
                    optimizer.zero_grad()
                    loss = loss_function(model(train.inputs[index]), train.targets[index])
                    loss.backward()
                    optimizer.step(loss, examined if "validation" in name else None)
                scores.append(evaluate(model, task))
            cells.append(f"{100 * statistics.fmean(scores):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("tables", "regret", "large", "tuning", "darts", "warm", "adaptive")
    parser.add_argument("--only", default=",".join(parts), help="parts to run, joined by commas")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(parts):
        sys.exit(f"unknown part {unknown}; valid: {', '.join(parts)}")
    if "tables" in wanted:
        for kind, name in (("conv", "digits"), ("linear", "digits"), ("linear", "rotated")):
            table(kind, name)
    if "regret" in wanted:
        regret(given.seeds, given.plot)
    if "large" in wanted:
        large(given.seeds)
    if "tuning" in wanted:
        tuning(given.seeds)
    if "darts" in wanted:
        darts(3)
    if "warm" in wanted:
        warm(given.seeds)
    if "adaptive" in wanted:
        adaptive(3)


if __name__ == "__main__":
    main(sys.argv[1:])
