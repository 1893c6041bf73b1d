"""Detectors on drawn streams (false alarms, delays) and healing on digits that change.

    python tests/benchmarks/monitoring.py                      # small
    python tests/benchmarks/monitoring.py --streams 400 --seeds 10

Streams: accuracies of 20 samples each of a model that is right in 95 %, with a reference of 1000 samples that is drawn
anew for each stream. *False alarms*: the share of healthy streams of 200 records with any. *Delay*: records from the
drop to the alarm, median and 90 % quantile, of a drop after 50 healthy records; missed: none within 150. Beside the
detectors the threshold that one would set by hand: an alarm where a record lies 10 points below the reference.

Healing: digits that are inverted, turned or dim one day. `restored` is the share of the lost accuracy that is there
again, on 200 images that nothing has learned from or was chosen by. *Healthy*: streams without a change. *Noise*: the
model is retrained though nothing has changed (forced), and must not be replaced.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from crosstask.engine import TransferEngine
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate
from crosstask.records import Budget
from crosstask_detectors import CUSUM, EDetector, EProcess, run_length, threshold_for
from crosstask_monitoring import Evidence, Monitor, rows_of
from crosstask_monitoring.digits import CHANGES, portfolio
from crosstask_monitoring.testing import accuracies

LIMITS = (0.0, 1.0)


class ByHand:
    """A threshold, which is no test."""

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        level = float((reference[:, 0] * reference[:, 1]).sum() / reference[:, 1].sum())
        return Evidence(statistic=tuple((level - stream[:, 0]).tolist()), threshold=0.1)


DETECTORS: dict[str, Any] = {
    "e_process, alpha .01": EProcess(),
    "e_process, alpha .1": EProcess(alpha=0.1),
    "e_detector, run length 1000": EDetector(),
    "cusum, run length 1000": CUSUM(),
    "cusum, guard 0": CUSUM(guard=0.0),
    "threshold of 10 points": ByHand(),
}


def detectors(streams: int) -> None:
    print("| detector | false alarms, % | drop to 90 % | to 85 % | to 75 % | missed at 90 % | ms per record |")
    print("|---|---|---|---|---|---|---|")
    for name, detector in DETECTORS.items():
        started, records = time.process_time(), 0
        alarms = 0
        for n in range(streams):
            reference, stream = accuracies(0.95, 50, 20, seed=n), accuracies(0.95, 200, 20, seed=10_000 + n)
            alarms += detector.read(reference, stream, LIMITS).alarm is not None
            records += 200
        spent = time.process_time() - started
        cells, missed = [], 0.0
        for level in (0.9, 0.85, 0.75):
            delays, lost, early = [], 0, 0
            for n in range(streams // 2):
                reference = accuracies(0.95, 50, 20, seed=n)
                healthy = accuracies(0.95, 50, 20, seed=20_000 + n)
                found = detector.read(
                    reference, torch.cat([healthy, accuracies(level, 150, 20, seed=30_000 + n)]), LIMITS
                )
                if found.alarm is not None and found.alarm < 50:
                    early += 1
                elif found.alarm is None:
                    lost += 1
                else:
                    delays.append(found.alarm - 49)
            missed = 100 * lost / max(1, lost + len(delays)) if level == 0.9 else missed
            tail = sorted(delays)[int(0.9 * (len(delays) - 1))] if delays else 0
            cells.append(f"{statistics.median(delays):.0f} ({tail})" if delays else "–")
        share = 100 * alarms / streams
        print(
            f"| {name} | {share:.1f} | {' | '.join(cells)} | {missed:.0f} | {1000 * spent / records:.3f} |", flush=True
        )


def runs(streams: int) -> None:
    """CUSUM of normal scores with a known mean against its theory."""
    print("\n| CUSUM, normal scores, mean known | drawn run length | Siegmund |\n|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    reference = rows_of([-1.0, 1.0] * 5000, 1)
    detector = CUSUM(run_length=100, guard=0.0)
    for drop in (0.0, 0.5, 1.0, 2.0):
        lengths = []
        for _ in range(streams):
            scores = (torch.randn(1000, generator=generator, dtype=torch.float64) - drop).tolist()
            end = detector.read(reference, rows_of(scores, 1), (-float("inf"), float("inf"))).alarm
            lengths.append(1000 if end is None else end + 1)
        error = statistics.stdev(lengths) / len(lengths) ** 0.5
        wanted = run_length(threshold_for(100, 0.5), 0.5, drop)
        print(f"| drop of {drop} sd | {statistics.mean(lengths):.1f} ± {1.96 * error:.1f} | {wanted:.1f} |", flush=True)


def engine(seed: int) -> TransferEngine:
    budget = Budget(steps=200, learning_rate=3e-3, evaluate_every=100)
    made = TransferEngine(
        model=ModelSpec(hidden=(64, 64)), train=Budget(steps=300, learning_rate=3e-3), budget=budget, seeds=1,
        seed=seed, discoverers=[], auto_discover=False,
    )  # fmt: skip
    made.register(portfolio(seed))
    made.train(["digits"])
    return made


def fed(monitor: Monitor, name: str, split: str, count: int, size: int = 20) -> None:
    data = monitor.engine.portfolio[name].data(split)
    for at in range(0, count * size, size):
        monitor.record("digits", inputs=data.inputs[at : at + size], targets=data.targets[at : at + size])


def healing(seeds: int) -> None:
    print("\n| change | found | delay, records | replaced | before | after | restored |\n|---|---|---|---|---|---|---|")
    for name in (*CHANGES, "nothing"):
        found, delays, replaced, before, after, shares = 0, [], 0, [], [], []
        for seed in range(seeds):
            with engine(seed) as made:
                monitor, task = Monitor(made), made.portfolio["digits"]
                fed(monitor, "digits", "test", 8)
                healthy = evaluate(task.model, task, "validation")
                judge = made.portfolio[name if name != "nothing" else "digits"]
                split = "test" if name != "nothing" else "validation"
                first = evaluate(task.model, task.over(train=task.train, test=judge.data(split)), "test")
                fed(monitor, *((name, "train", 12) if name != "nothing" else ("digits", "test", 12)))
                reading = monitor.check("digits")["digits"]
                found += reading.alarm
                if reading.alarm_at is not None:
                    delays.append(reading.alarm_at - 7)
                replaced += monitor.heal("digits", max_tasks=3).replaced
                last = evaluate(task.model, task.over(train=task.train, test=judge.data(split)), "test")
                before.append(first)
                after.append(last)
                if healthy - first > 0.05:
                    shares.append((last - first) / (healthy - first))
        delay = f"{statistics.median(delays):.0f}" if delays else "–"
        share = f"{100 * statistics.mean(shares):.0f} %" if shares else "–"
        told = f"{statistics.mean(before):.3f} | {statistics.mean(after):.3f} | {share}"
        print(f"| {name} | {found} of {seeds} | {delay} | {replaced} of {seeds} | {told} |", flush=True)


def noise(seeds: int) -> None:
    """Retrained on a few samples of what it is already: by how many of the candidates is it replaced?"""
    replaced, better = 0, 0
    for seed in range(seeds):
        with engine(seed) as made:
            data = made.portfolio["digits"].data("test")
            done = Monitor(made).heal("digits", data=data.take(slice(200)), force=True, max_tasks=3)
            replaced += done.replaced
            assert done.comparison is not None
            better += done.comparison.new > done.comparison.old
    print(f"\nforced without a change: {better} of {seeds} candidates score higher, {replaced} replace the model")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f}, {given.streams} streams, {given.seeds} seeds\n")
    started = time.process_time()
    detectors(given.streams)
    runs(given.streams)
    healing(given.seeds)
    noise(given.seeds)
    print(f"\n{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
