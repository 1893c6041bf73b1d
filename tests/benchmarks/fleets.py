"""What it costs to train many small networks at once: python tests/benchmarks/fleets.py [--rounds 3] [--before FOLDER]
[steps] [probe] [uses] [beside]

CPU time of one thread, interleaved: in every round each side works once, in a process of its own; the median of the
rounds is shown. With `--before` the same by the code in that folder, too (`git worktree add FOLDER COMMIT`).

- `steps`: optimiser steps of one network, of `fit` one network after the other and of fleets of K = 9, 36 and 108 (108
  in fleets of at most 36), for an MLP with two hidden layers of 64 and the demo's two convolutions, batches of 25 of
  scikit-learn's digits: all with one learning rate, with three, with one for each, and with patience (2 points of a
  curve every 10 steps, at most 200 steps; beside `fit` with patience).
- `probe`: all 132 pairs of twelve digit tasks, three seeds each (50 samples, 60 steps, a point of the curve every 10):
  in fleets, and one by one; and how far the coefficients of the two are apart. The garbage collector does not go
  through what was there before (imports).
- `uses`: what stands on fleets: the demo, a curriculum (three steps and the target), one transfer with its controls,
  and what a search does with its winner and the default. Three seeds each.
- `beside`: in fleets and one by one in turn, in one process: 36 trials of a `random` search, of one network with rates
  and of a space of networks with rates; 30 by `bayesian`; an analogy with its two refits; the two seeds of 20
  architectures each of the tables of `nas.py`.
"""

import argparse
import contextlib
import functools
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import nas
import numpy as np
import torch

from crosstask.context import LocalContext
from crosstask.graph import TransferGraph
from crosstask.learning import together
from crosstask.learning.models import ModelSpec
from crosstask.learning.own_models import train_models
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask_analogy import AnalogyTransfer
from crosstask_search import networks
from crosstask_search.driver import run_search
from crosstask_search.models import ModelSpace
from crosstask_search.parameter import Parameter

SPECS = {"mlp": ModelSpec(kind="mlp", hidden=(64, 64)), "conv": ModelSpec(kind="conv", hidden=(16, 32))}
BUDGET = Budget(steps=60, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=10)
FLEETS = (9, 36, 108)
RATES = {"learning_rate": Parameter(low=1e-4, high=1e-1, log=True)}
THREE, MANY = (1e-3, 3e-3, 1e-2), tuple(1e-3 * 1.07**n for n in range(36))


def portfolio(registry: Registry) -> Any:
    """The twelve tasks of the source `digits`."""
    return LocalContext(seed=0, registry=registry).component("source", "digits").load()  # type: ignore[attr-defined]


def steps(kind: str) -> dict[str, float]:
    """Steps of one network per CPU second, by `fit` and in fleets."""
    from crosstask.learning.fleets import Member, Phase, muster, train_fleet
    from crosstask.learning.training import fit
    from crosstask.learning.transferring import drawn, fresh_model

    tasks = list(portfolio(Registry.installed()))

    def members(count: int, **how: Any) -> list[Any]:
        made = []
        rates = how.pop("rates", (BUDGET.learning_rate,))
        for seed in range(count):
            task = drawn(tasks[seed % len(tasks)], 50, seed)
            model = fresh_model(SPECS[kind].build(task.descriptor, 0), task, seed)
            budget = attrs.evolve(BUDGET, learning_rate=rates[seed % len(rates)], **how)
            made.append(Member(model, task, budget, (Phase(budget.steps),), seed))
        return made

    def one_by_one(own: list[Any], curve: str | None) -> int:
        return sum(
            len(fit(m.model, m.task, m.budget, torch.Generator().manual_seed(m.seed), curve_split=curve).losses)
            for m in own
        )

    def together(own: list[Any], curve: str | None) -> int:
        fleets, alone = muster(own)
        if alone:  # an earlier state
            return 0
        trained = [each for fleet in fleets for each in train_fleet([own[n] for n in fleet], curve_split=curve)]
        return sum(len(each.history.losses) for each in trained)

    patience = {"steps": 200, "patience": 2}
    ways = {"": {}, "3 rates, ": {"rates": THREE}, "own rates, ": {"rates": MANY}, "patience, ": patience}
    found = {}
    for warm in (False, True):  # the first time warms up
        for name, how in ways.items():
            curve = "validation" if name.startswith("patience") else None
            for count in (0, *FLEETS):
                own = members(count or 9, **how)
                start = time.process_time()
                taken = (together if count else one_by_one)(own, curve)
                if warm:
                    found[name + (f"K = {count}" if count else "fit")] = taken / (time.process_time() - start)
    return found


def searched(search: str, models: ModelSpace, task: Any, count: int) -> None:
    """The trials of a search, trainings of 120 steps."""
    trial = networks._ModelTrial(models, task, Budget(steps=120), 0, "cpu")
    run_search(LocalContext(seed=0), search, models.space(task.descriptor), trial, count)


def analogy(spec: ModelSpec, plain: Any) -> Any:
    """An analogy whose models share no basin: digits are to faint ones as negatives are to faint negatives."""
    views = {"plain": lambda x: x, "faint": lambda x: 0.4 * x, "negative": lambda x: 1 - x}
    known = []
    for name, view in views.items():
        data = {s: (view(plain.data(s).inputs), plain.data(s).targets) for s in ("train", "validation")}
        known.append(Task(descriptor=attrs.evolve(plain.descriptor, task_id=name), **data))
    train_models(LocalContext(seed=0), spec, known, Budget(steps=100, learning_rate=3e-3))
    made = AnalogyTransfer(analogy=tuple(views), basin=1.0)
    made.bind(LocalContext(seed=0))
    new = attrs.evolve(plain.descriptor, task_id="faint negative")
    return lambda: made.synthesize(new, known, TransferGraph([new]), None)


def uses() -> dict[str, float]:
    """CPU seconds of what stands on fleets."""
    from crosstask import TransferEngine
    from crosstask.learning.transferring import fresh_model

    found = {}

    def spent(name: str, work: Any) -> None:
        start = time.process_time()
        work()
        found[name] = time.process_time() - start

    registry = Registry.installed()
    tasks = portfolio(registry)
    with TransferEngine(
        seed=0, seeds=3, registry=registry, auto_discover=False, discoverers=[], model=SPECS["mlp"],
        budget=Budget(steps=60, samples=50, learning_rate=3e-3, evaluate_every=10),
        train=Budget(steps=200, learning_rate=3e-3, evaluate_every=10),
    ) as engine:  # fmt: skip
        engine.register(tasks)
        for target in ("low", "high"):  # the first warms up
            spent("transfer", lambda target=target: engine.transfer_knowledge("digits", target, "lp_ft"))
        curriculum = engine.generate_curriculum("prime", "easy_to_hard", max_tasks=4)
        spent("curriculum", lambda: engine.run_curriculum(curriculum))
    task, budget = registry.create("source", "digits", {"tasks": ["digits"]}).load()["digits"], Budget(steps=120)
    for kind, spec in SPECS.items():
        fresh_model(spec.build(task.descriptor, 0), task, 0)
        candidates = [(spec, budget), (ModelSpec(), budget)]
        spent(f"search, {kind}", lambda c=candidates: networks._judged(LocalContext(seed=0), c, task, 3, "test"))
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "crosstask", "demo"], cwd=folder, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["demo"] = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return found


@contextlib.contextmanager
def one_by_one() -> Iterator[None]:
    """Inside, whoever asks who may go together hears: nobody."""
    with mock.patch.object(
        together, "muster", lambda members, *_: ([], dict.fromkeys(range(len(members)), "asked for"))
    ):
        yield


def show_beside(rounds: int) -> None:
    """CPU seconds of what was no part of `uses` before; the first round warms up."""
    task = Registry.installed().create("source", "digits", {"tasks": ["digits"]}).load()["digits"]  # type: ignore[attr-defined]
    works: dict[str, Any] = {}
    for kind, spec in SPECS.items():
        one = ModelSpace(kind=kind, max_layers=1, widths=spec.hidden[:1], tune=RATES)
        some = ModelSpace(kind=kind, widths=(16, 32, 64, 128) if kind == "mlp" else (8, 16, 32), tune=RATES)
        works[f"36 trials of one network, {kind}"] = functools.partial(searched, "random", one, task, 36)
        works[f"36 trials of a space, {kind}"] = functools.partial(searched, "random", some, task, 36)
        works[f"30 trials by bayesian, {kind}"] = functools.partial(searched, "bayesian", one, task, 30)
        works[f"analogy, {kind}"] = analogy(spec, task)
    for kind in nas.BUDGETS:
        made = nas.architectures(kind)
        points = made.space.sample(np.random.default_rng(0), 20)
        works[f"20 architectures, {kind}"] = functools.partial(architectures, made, points, task, nas.BUDGETS[kind])
    for name, work in works.items():
        found: dict[str, list[float]] = {"one by one": [], "in fleets": []}
        for number in range(rounds + 1):
            for way, times in found.items():
                with one_by_one() if way == "one by one" else contextlib.nullcontext():
                    start = time.process_time()
                    work()
                    if number:
                        times.append(time.process_time() - start)
        shown = [f"{way}: {statistics.median(times):.2f} s" for way, times in found.items()]
        print(f"| {name} |", " | ".join(shown), "|", flush=True)


def architectures(made: Any, points: Any, task: Any, budget: Budget) -> None:
    for point in points:
        nas.scored(made, point, task, budget, together=True)


def probe(kind: str, alone: bool = False) -> dict[str, Any]:
    """CPU seconds of a probe of all pairs, the coefficients, and the process's peak memory in MiB."""
    registry = Registry.installed()
    tasks = portfolio(registry)
    train_models(
        LocalContext(seed=0, registry=registry), SPECS[kind], list(tasks), Budget(steps=100, learning_rate=3e-3)
    )
    context = LocalContext(seed=0, registry=registry)
    context.budget, context.seeds = BUDGET, 3
    made: Any = context.component("discovery", "probe", {})
    graph = TransferGraph(task.descriptor for task in tasks)
    gc.collect()
    gc.freeze()
    start = time.process_time()
    with one_by_one() if alone else contextlib.nullcontext():
        edges = made.discover(tasks, graph)
    seconds = time.process_time() - start
    memory = peak()
    found = {f"{e.source} {e.target}": e.transfer_coefficient for e in edges}
    return {"seconds": seconds, "memory": memory, "coefficients": found}


def peak() -> float:
    """MiB of resident memory, at its highest so far: `ru_maxrss` is at least that of who started the process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def elsewhere(*arguments: str, before: str | None = None) -> dict[str, Any]:
    """A part in a process of its own, by the code of another folder if one is named."""
    paths = [str(p) for p in (Path(before) / "kernel/src", *Path(before).glob("plugins/*/*/src"))] if before else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds_of(rounds: int, sides: dict[str, tuple[tuple[str, ...], str | None]]) -> dict[str, list[dict[str, Any]]]:
    """What each side says, interleaved."""
    every: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (arguments, before) in sides.items():
            every[name].append(elsewhere(*arguments, before=before))
    return every


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def show_steps(kind: str, rounds: int, before: str | None) -> None:
    sides = {"now": (("steps", kind), None)} | ({"before": (("steps", kind), before)} if before else {})
    for side, runs in rounds_of(rounds, sides).items():
        for way in ("", "3 rates, ", "own rates, ", "patience, "):
            alone = median(runs, f"{way}fit")
            rates = [median(runs, f"{way}K = {count}") for count in FLEETS]
            shown = [f"{rate:,.0f} ({rate / alone:.1f})" if rate else "alone" for rate in rates]
            print(f"| {kind}, {way}{side} | {alone:,.0f} |", " | ".join(shown), "|", flush=True)


def show_probe(kind: str, rounds: int, before: str | None) -> None:
    sides: dict[str, tuple[tuple[str, ...], str | None]] = {
        "in fleets": (("probe", kind), None), "one by one": (("probe", kind, "alone"), None)
    }  # fmt: skip
    every = rounds_of(rounds, sides | ({"before": (("probe", kind), before)} if before else {}))
    first = every["in fleets"][0]["coefficients"]
    cost = {name: median(runs, "seconds") / len(first) * 1e3 for name, runs in every.items()}
    shown = [f"{name}: {ms:.1f} ms ({ms / cost['in fleets']:.1f} x)" for name, ms in cost.items()]
    memory = " / ".join(f"{runs[0]['memory']:.0f}" for runs in every.values())
    other = every["one by one"][0]["coefficients"]
    apart = max(abs(first[pair] - other[pair]) for pair in first)
    print(f"| {kind}, a pair | {', '.join(shown)} | {memory} MiB | apart by {apart:.2g} |", flush=True)


def show_uses(rounds: int, before: str | None) -> None:
    every = rounds_of(rounds, {"now": (("uses",), None)} | ({"before": (("uses",), before)} if before else {}))
    for name in every["now"][0]:
        print(f"| {name} |", " | ".join(f"{side}: {median(runs, name):.2f} s" for side, runs in every.items()), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["steps", "probe", "uses", "beside"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", help="folder with an earlier state of the repository")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        part, *how = options.one
        made = uses() if part == "uses" else steps(how[0]) if part == "steps" else probe(how[0], alone="alone" in how)
        print(json.dumps(made))
        return
    print(
        f"load {os.getloadavg()[0]:.1f}\n\n| | fit |", " | ".join(f"K = {k}" for k in FLEETS), "|\n|---|" + "---|" * 4
    )
    for part in options.parts:
        for kind in SPECS if part in ("steps", "probe") else ():
            (show_steps if part == "steps" else show_probe)(kind, options.rounds, options.before)
        if part == "uses":
            show_uses(options.rounds, options.before)
        if part == "beside":
            show_beside(options.rounds)


if __name__ == "__main__":
    main()
