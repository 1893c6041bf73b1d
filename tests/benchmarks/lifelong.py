"""Tasks that arrive one by one: python tests/benchmarks/lifelong.py [--arrivals 60] [--orders 1] [--per-task 2]

Sixty tasks of Omniglot's fifty alphabets (14 x 14 pixels): the ten with most characters are two tasks each, of disjoint
halves of their characters; of each task at most `--classes` characters, drawn by twenty people of whom ten are for
training, four for validation, six for the test. They arrive in random order (`--orders` of them). A transfer may spend
60 steps on 5 samples of each class, with 3 seeds; each task's own model 300 steps on all ten.

For each arrival the stage `lifelong` looks at up to 40 known tasks, tries two and takes one. To compare, all other
sources, or `--compare` drawn at random, are measured and judged, too (not counted): what one at random brings, what the
best of two drawn at random and tried in the same way, what the best of them. Gains are in test accuracy over training
from scratch with the same samples and steps; intervals are Student's over arrivals. CPU time is of one thread. What is
measured is kept in `places.CACHE`; `--fresh` measures anew, and only then is the CPU time true.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from places import CACHE, DATA

from crosstask import TransferEngine
from crosstask.descriptors import TaskDescriptor
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.models import ModelSpec
from crosstask.options import unstructure
from crosstask.records import Budget, Interval, RunRecord
from crosstask.registry import Registry
from crosstask.report import write_report
from crosstask.tasks import Portfolio, Task
from crosstask_lifelong import Arrival, LifelongResult
from crosstask_omniglot import Omniglot

HALVED = 10


def tasks(classes: int) -> list[Task]:
    """The sixty tasks, in the order of the alphabets."""
    whole = list(Omniglot(part="all", size=14, path=str(DATA)).load())
    largest = sorted(whole, key=lambda t: -(t.descriptor.output_dim or 0))[:HALVED]
    made = []
    for task in whole:
        rng = np.random.default_rng(sum(map(ord, task.task_id)))
        order = rng.permutation(task.descriptor.output_dim or 0)
        parts = np.array_split(order, 2) if task in largest else [order]
        for number, part in enumerate(parts):
            name = task.task_id + (f" {'ab'[number]}" if len(parts) > 1 else "")
            made.append(part_of(task, name, sorted(part[:classes].tolist())))
    return made


def part_of(task: Task, name: str, kept: Sequence[int]) -> Task:
    """A task of some of the characters."""
    data = {}
    for split in ("train", "validation", "test"):
        given = task.data(split)
        rows = torch.isin(given.targets, torch.tensor(kept)).nonzero()[:, 0]
        labels = torch.searchsorted(torch.tensor(kept), given.targets[rows])
        data[split] = (given.inputs[rows], labels)
    descriptor = TaskDescriptor(
        task_id=name, domain="omniglot", input_shape=(1, 14, 14), output_dim=len(kept),
        sample_count=len(data["train"][1]), classes=tuple(f"{task.task_id} {c}" for c in kept),
    )  # fmt: skip
    return Task(descriptor=descriptor, **data)


def run(order: int, args: argparse.Namespace) -> tuple[LifelongResult, float]:
    """One order of arrivals: what was found, and the CPU time of everything, comparisons included."""
    portfolio = tasks(args.classes)
    arriving = [portfolio[n] for n in np.random.default_rng(order).permutation(len(portfolio))][: args.arrivals]
    started = time.process_time()
    CACHE.mkdir(parents=True, exist_ok=True)
    with TransferEngine(
        model=ModelSpec(kind="conv", hidden=(16, 32)), train=Budget(steps=300, batch_size=32, learning_rate=3e-3),
        budget=Budget(steps=60, batch_size=25, learning_rate=3e-3, evaluate_every=60), seeds=3, seed=order,
        registry=Registry.installed(), auto_discover=False, store=None if args.fresh else str(CACHE / "lifelong.db"),
    ) as engine:  # fmt: skip
        engine.register(Portfolio(arriving))
        probe = {"use": "probe", "shots": 5}
        outcome = engine.run_stage(
            "lifelong", per_task=args.per_task, compare=args.compare, estimators=[{"use": "mean_z", "shots": 5}],
            probe=probe, judge={**probe, "split": "test"},
        )  # fmt: skip
        if args.report:
            results = {"lifelong": unstructure(outcome.record)}
            made = RunRecord(run_id="lifelong", name="lifelong", results=results)
            write_report(made, engine.graph, args.report, Registry.installed())
    return outcome.record, time.process_time() - started


def told(value: Interval | None) -> str:
    return "–" if value is None else f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def over(arrivals: Iterable[Arrival], control: str) -> Interval:
    known = [(e.gain, getattr(e, control)) for e in arrivals]
    return confidence_interval([gain.mean - other for gain, other in known if gain is not None and other is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrivals", type=int, default=60)
    parser.add_argument("--orders", type=int, default=1)
    parser.add_argument("--per-task", type=int, default=2)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--compare", type=int, default=100, help="sources drawn at random that are judged, too")
    parser.add_argument("--fresh", action="store_true", help="measure anew")
    parser.add_argument("--report", type=Path, help="where to write the report of the last order")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = [run(order, args) for order in range(args.orders)]
    later = list(itertools.chain.from_iterable(found.later for found, _ in results))
    print("| arrivals | gain over scratch, points | over one source at random | over as many tried at random |"
          " regret (coefficient) | best of those compared taken |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for name, low, high in (("2 to 20", 1, 19), ("21 to 40", 20, 39), ("41 to 60", 40, 59), ("all", 1, 10**6)):
        some = [each for each in later if low <= each.known <= high]
        if some:
            gains = confidence_interval([each.gain.mean for each in some])
            regret = confidence_interval([each.regret for each in some if each.regret is not None])
            share = statistics.mean(each.source == each.best for each in some)
            print(f"| {name} | {told(gains)} | {told(over(some, 'random_gain'))} | {told(over(some, 'tried_gain'))} |"
                  f" {regret.mean:.3f} [{regret.low:.3f}, {regret.high:.3f}] | {share:.0%} |")  # fmt: skip
    random = confidence_interval([e.random_gain for e in later if e.random_gain is not None])
    tried = confidence_interval([e.tried_gain for e in later if e.tried_gain is not None])
    print(f"\none source at random: {told(random)}; as many tried at random: {told(tried)} points over scratch")
    own = [sum(each.seconds for each in found.arrivals) for found, _ in results]
    pairs = [found.pairs for found, _ in results]
    hundred = [each.seconds for each in later]
    first, last = statistics.mean(hundred[:10]), statistics.mean(hundred[-10:])
    print(f"pairs tried: {pairs}; CPU: {', '.join(f'{s:.0f}' for s in own)} s "
          f"(per arrival {first:.2f} s at first, {last:.2f} s at the end); with all comparisons "
          f"{', '.join(f'{s:.0f}' for _, s in results)} s")  # fmt: skip


if __name__ == "__main__":
    main()
