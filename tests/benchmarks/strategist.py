"""Does a transfer method that is recommended from the runs on other tasks beat the default one?

Digits: every task in turn is the target that nobody has seen. The history are transfers into all the others, with every
method and several numbers of samples; its names are hidden from the strategist as those of strangers. The truth are
transfers into the target itself, which are looked at last.

    python tests/benchmarks/strategist.py [--seeds 2] [--sources 2] [--caution 0] [--store FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from crosstask import Budget, ModelSpec, Registry, TransferEngine
from crosstask.context import LocalContext
from crosstask.learning.metrics import confidence_interval
from crosstask.store import open_store

SAMPLES = (20, 60, 200, 600)
METHODS = ("lp_ft", "fine_tuning", "feature_extraction", "gradual_unfreezing", "l2_sp", "distillation")


class Past(LocalContext):
    """A history without one target."""

    def __init__(self, entries, budget):
        super().__init__()
        self.entries, self.budget = entries, budget

    def past(self, kind):
        return iter(self.entries.get(kind, []))


def measure(path: Path, seeds: int, sources: int, steps: int) -> TransferEngine:
    """Every method into every task, from a few sources, into the store."""
    rng, engine = np.random.default_rng(0), None
    names: dict[str, list[str]] = {}
    for samples in SAMPLES:
        engine = TransferEngine(
            model=ModelSpec(hidden=[32, 32]), train=Budget(steps=400), budget=Budget(steps=steps, samples=samples),
            discoverers=[], seeds=seeds, store=path,
        )  # fmt: skip
        engine.register(Registry.installed().create("source", "digits").load())
        engine.train()
        ids = engine.portfolio.ids
        for target in ids:
            if target not in names:
                names[target] = list(rng.permutation([name for name in ids if name != target])[:sources])
            for source in names[target]:
                for method in METHODS:
                    engine.transfer_knowledge(source, target, method)
        print(f"  {samples} samples measured, {time.process_time():.0f} s CPU", flush=True)
    assert engine is not None
    return engine


def advised(engine, entries, target: str, samples: int, steps: int, usual: str, caution: float):
    """What is recommended for a target of whose transfers nothing is known."""
    others = {
        kind: [
            (key, e) for key, e in own if not isinstance(e, dict) or target not in (e.get("target"), e.get("source"))
        ]
        for kind, own in entries.items()
    }
    strategist = Registry.installed().create("strategist", "by_history", {"caution": caution})
    strategist.bind(Past(others, Budget(steps=steps, samples=samples)))
    return strategist.suggest(engine.portfolio[target], engine.portfolio, {"transfer": usual})[0]


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--seeds", type=int, default=2)
    given.add_argument("--sources", type=int, default=2)
    given.add_argument("--steps", type=int, default=100)
    given.add_argument("--caution", type=float, default=0.0)
    given.add_argument("--store", type=Path, default=None)
    options = given.parse_args()
    torch.set_num_threads(1)
    path = options.store or Path(tempfile.mkdtemp()) / "history.db"
    engine = measure(path, options.seeds, options.sources, options.steps)
    store = open_store(str(path))
    entries = {kind: list(store.entries(kind)) for kind in ("tasks", "transfers", "stages")}
    truth: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, entry in entries["transfers"]:
        if isinstance(entry, dict) and "strategy" in entry and entry["budget"]["steps"] == options.steps:
            method = entry["strategy"].split("'")[1]
            truth[entry["target"], entry["budget"]["samples"]][method].append(entry["score"]["mean"])
    usual = engine.method().name
    rows = []
    for (target, samples), found in sorted(truth.items()):
        scores = {method: float(np.mean(values)) for method, values in found.items()}
        advice = advised(engine, entries, target, samples, options.steps, usual, options.caution)
        always = max(METHODS, key=lambda m: np.mean([np.mean(f[m]) for (t, _), f in truth.items() if t != target]))
        rows.append((target, samples, advice, scores, always))
    changed = [row for row in rows if row[2].strategy != usual]
    print(f"\n{len(rows)} targets with numbers of samples; another than {usual!r} is recommended for {len(changed)}")
    print(
        "| samples | default | recommended | best single method elsewhere | best in hindsight | recommended - default |"
    )
    print("|---|---|---|---|---|---|")
    for samples in (*SAMPLES, None):
        part = [row for row in rows if samples in (row[1], None)]
        gains = defaultdict(list)
        for target, _, advice, scores, _ in part:
            gains[target].append(scores[advice.strategy] - scores[usual])
        over = confidence_interval([float(np.mean(values)) for values in gains.values()])
        means = [np.mean([pick(row) for row in part]) for pick in (
            lambda r: r[3][usual], lambda r: r[3][r[2].strategy], lambda r: r[3][r[4]], lambda r: max(r[3].values()),
        )]  # fmt: skip
        told = " | ".join(f"{100 * mean:.2f}" for mean in means)
        ends = f"{100 * over.mean:+.2f} ({100 * over.low:+.2f} to {100 * over.high:+.2f})"
        print(f"| {samples or 'all'} | {told} | {ends} |")
    held = [advice.expected.low <= scores[advice.strategy] <= advice.expected.high for _, _, advice, scores, _ in rows]
    gain = [
        advice.gain.low <= scores[advice.strategy] - scores[usual] <= advice.gain.high
        for _, _, advice, scores, _ in changed
        if advice.gain is not None
    ]
    print(f"the 95 % interval of the expected score holds {np.mean(held):.0%}", end="")
    print(f", that of the gain {np.mean(gain):.0%} of {len(gain)}" if gain else "")
    counts = defaultdict(int)
    for row in rows:
        counts[row[1], row[2].strategy] += 1
    print("recommended:", ", ".join(f"{m} for {n} of {s} samples" for (s, m), n in sorted(counts.items())))
    print("\n| if this were the default | always | recommended | difference |\n|---|---|---|---|")
    for name in METHODS:
        gains, always, chosen = defaultdict(list), [], []
        for (target, samples), found in sorted(truth.items()):
            picked = advised(engine, entries, target, samples, options.steps, name, options.caution).strategy
            always.append(np.mean(found[name]))
            chosen.append(np.mean(found[picked]))
            gains[target].append(chosen[-1] - always[-1])
        over = confidence_interval([float(np.mean(values)) for values in gains.values()])
        ends = f"{100 * over.mean:+.2f} ({100 * over.low:+.2f} to {100 * over.high:+.2f})"
        print(f"| `{name}` | {100 * np.mean(always):.2f} | {100 * np.mean(chosen):.2f} | {ends} |")
    store.close()


if __name__ == "__main__":
    main()
