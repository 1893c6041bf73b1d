"""Merging: what eight models keep in one, an unseen task without its labels, and what it costs.

    OMP_NUM_THREADS=1 python tests/benchmarks/merging.py [quality | unseen | cost] [--seeds 5] [--plot FILE]

- *quality*: a network that knows the plain digits is fine-tuned on each of eight views of them; the eight are merged.
- *unseen*: one that knows inverted digits is fine-tuned on five upright ones, eight times; new tasks are four upright
  digits that no source had together. Share of the accuracy that training on the new task's own data reaches.
- *cost*: CPU seconds and growth of the resident memory for files of 10 M parameters, each in a process of its own;
  `MERGEKIT=folder` (from `pip install --no-deps --target folder mergekit immutables`) puts mergekit beside it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from places import CACHE
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter, grey_dilation, rotate, shift
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.graph import TransferGraph
from crosstask.learning.modules import for_classes
from crosstask.learning.training import evaluate, fit, predict
from crosstask.points.synthesis import Synthesizer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_synthesis.batchnorm import reestimate

FILES = CACHE / "merging"
TEN = tuple("0123456789")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform_soup": ("uniform_soup", {}),
    "greedy_soup": ("greedy_soup", {}),
    "task_arithmetic": ("task_arithmetic", {"base": "base"}),
    "task_arithmetic, 0.3": ("task_arithmetic", {"base": "base", "strength": 0.3}),
    "ties": ("ties", {"base": "base"}),
    "dare": ("dare", {"base": "base"}),
    "slerp": ("slerp", {}),
    "fisher_merge": ("fisher_merge", {}),
    "evolutionary": ("evolutionary", {"base": "base"}),
    "regmean": ("regmean", {}),
}
VIEWS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "plain": lambda x, rng: x,
    "faint": lambda x, rng: 0.3 * x,
    "blurred": lambda x, rng: gaussian_filter(x, (0, 0, 0.8, 0.8)),
    "noisy": lambda x, rng: np.clip(x + rng.normal(0, 0.25, x.shape), 0, 1),
    "moved": lambda x, rng: shift(x, (0, 0, 1, 1), order=1),
    "thick": lambda x, rng: grey_dilation(x, (1, 1, 2, 2)),
    "tilted": lambda x, rng: np.clip(rotate(x, 30, (2, 3), reshape=False, order=1), 0, 1),
    "inverted": lambda x, rng: 1 - x,
}


class Mlp(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


class Conv(nn.Module):
    """With BatchNorm."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        blocks = [
            step for a, b in ((1, 16), (16, 32))
            for step in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        ]  # fmt: skip
        self.trunk = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(128, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


KINDS: dict[str, Callable[[int], nn.Module]] = {"MLP 128-64": Mlp, "conv 16-32, BatchNorm": Conv}


def digits(view: str, seed: int, keep: Sequence[int] = range(10), name: str = "") -> Task:
    """Digits of a view; the same split of the images for a seed. Labels are places in `keep`."""
    raw = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(raw.target))
    images = VIEWS[view]((raw.images[order] / 16)[:, None], rng)
    x, y = torch.tensor(images, dtype=torch.float32), torch.tensor(raw.target[order])
    parts = {"train": slice(0, 900), "validation": slice(900, 1200), "test": slice(1200, None)}
    data = {}
    for split, part in parts.items():
        mine = torch.isin(y[part], torch.tensor(list(keep)))
        data[split] = (x[part][mine], torch.searchsorted(torch.tensor(list(keep)), y[part][mine]))
    classes = tuple(TEN[k] for k in keep)
    descriptor = TaskDescriptor(
        task_id=name or view, input_shape=(1, 8, 8), output_dim=len(classes), classes=classes, domain=view
    )
    return Task(descriptor=descriptor, **data)


def learned(task: Task, start: nn.Module, steps: int, rate: float, seed: int) -> nn.Module:
    import copy

    model = copy.deepcopy(start)
    fit(model, task, Budget(steps=steps, learning_rate=rate), torch.Generator().manual_seed(seed), curve_split=None)
    return model.eval()


def fresh(kind: str, outputs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return KINDS[kind](outputs)


def ensemble_accuracy(models: Sequence[nn.Module], task: Task) -> float:
    data = task.data("test")
    logits = torch.stack([predict(m, data.inputs) for m in models]).mean(0)
    return float((logits.argmax(1) == data.targets).double().mean())


def made_by(name: str, options: dict[str, Any], seed: int) -> Synthesizer:
    maker: Any = LocalContext(seed=seed).component("synthesis", name, options)
    return maker  # type: ignore[no-any-return]


def family(kind: str, seed: int) -> tuple[nn.Module, list[Task]]:
    """(a network that knows the plain digits, the eight views with a model each that was fine-tuned from it)."""
    tasks = [digits(view, seed) for view in VIEWS]
    start = learned(tasks[0], fresh(kind, 10, seed), 300, 3e-3, seed)
    for k, task in enumerate(tasks):
        task.model = learned(task, start, 200, 2e-3, seed + 100 + k)
    return start, tasks


def kept_with_own_statistics(kind: str, seed: int) -> dict[str, float]:
    """The same shares, where BatchNorm's statistics are re-estimated for each view before it is asked."""
    _, tasks = family(kind, seed)
    found = {}
    for name in ("uniform_soup", "regmean"):
        model = made_by(name, {}, seed).synthesize(tasks[0].descriptor, tasks, TransferGraph(), None)
        shares = []
        for task in tasks:
            reestimate(model, task.data("train").inputs)
            assert task.model is not None
            shares.append(evaluate(model, task, "test") / evaluate(task.model, task, "test"))
        found[f"{name}, statistics of each view"] = float(np.mean(shares))
    return found


def kept(kind: str, seed: int) -> dict[str, float]:
    """(share of the own models' accuracy by method; and the latter as `own`)."""
    start, tasks = family(kind, seed)
    members = [task.model for task in tasks if task.model is not None]
    own = [evaluate(model, task, "test") for model, task in zip(members, tasks, strict=True)]
    pool = [*tasks, Task(descriptor=attrs.evolve(tasks[0].descriptor, task_id="base"), model=start)]
    made = {"the network before": start}
    for name, (method, options) in METHODS.items():
        maker = made_by(method, options | {"tasks": tuple(VIEWS)}, seed)
        made[name] = maker.synthesize(tasks[0].descriptor, pool, TransferGraph(), None)
    data = [task.data("train") for task in tasks]
    both = (torch.cat([d.inputs for d in data]), torch.cat([d.targets for d in data]))
    joint = Task(descriptor=tasks[0].descriptor, train=both)
    made["one model trained on all eight"] = learned(joint, start, 1600, 2e-3, seed)
    scores = {name: [evaluate(model, task, "test") for task in tasks] for name, model in made.items()}
    scores["mean of the eight models' logits"] = [ensemble_accuracy(members, task) for task in tasks]
    shares = {name: float(np.mean([f / o for f, o in zip(f, own, strict=True)])) for name, f in scores.items()}
    return shares | {"own": float(np.mean(own))}


def quality(seeds: int, plot: str | None) -> None:
    for number, kind in enumerate(KINDS):
        runs = [remembered(f"quality-{number}-{seed}", lambda s=seed, k=kind: kept(k, s)) for seed in range(seeds)]
        if "BatchNorm" in kind:
            for seed, run in enumerate(runs):
                run |= remembered(f"views-{seed}", lambda s=seed, k=kind: kept_with_own_statistics(k, s))
        own = [run.pop("own") for run in runs]
        print(f"\n{kind}: own models {100 * np.mean(own):.1f} %; share of it that is kept, {seeds} seeds\n")
        print("| merged by | kept, % | sd |\n|---|---:|---:|")
        shares = {name: [run[name] for run in runs] for name in runs[0]}
        for name, found in shares.items():
            print(f"| {name} | {100 * np.mean(found):.1f} | {100 * deviation(found):.1f} |", flush=True)
        if plot and kind.startswith("MLP"):
            draw(shares, plot)


def remembered(name: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, kept in a file: nothing is measured twice."""
    file = FILES / f"{name}.json"
    if not file.exists():
        FILES.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(make()), "utf-8")
    return json.loads(file.read_text("utf-8"))


def deviation(found: Sequence[float]) -> float:
    return statistics.stdev(found) if len(found) > 1 else 0.0


def draw(shares: dict[str, list[float]], file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    order = sorted(shares, key=lambda n: float(np.mean(shares[n])))
    figure, axes = pyplot.subplots(figsize=(7, 4))
    means, spread = [100 * np.mean(shares[n]) for n in order], [100 * deviation(shares[n]) for n in order]
    axes.barh(order, means, xerr=spread, color=["tab:blue" if n in METHODS else "lightgray" for n in order])
    axes.set_xlabel("accuracy of one merged model, % of eight own models")
    axes.set_xlim(left=50)
    figure.tight_layout()
    figure.savefig(file)


def made_unseen(seed: int) -> dict[str, list[float]]:
    """Shares of full training by method, stated confidences by `method:`, and what full training reached."""
    kind, found = "MLP 128-64", defaultdict(list)
    rng = np.random.default_rng(seed)
    start = learned(digits("inverted", seed), fresh(kind, 10, seed), 300, 3e-3, seed)
    wide, narrow = [], []
    covered: set[int] = set()
    for k in range(8):
        keep = sorted(rng.choice(10, 5, replace=False))
        covered |= set(keep)
        ten = digits("plain", seed, name=f"source-{k}")
        mine = Task(descriptor=ten.descriptor, **{s: chosen(ten, s, keep) for s in ("train", "validation", "test")})
        mine.model = learned(mine, start, 200, 1e-3, seed + k)
        wide.append(mine)
        five = digits("plain", seed, keep, f"source-{k}")
        five.model = for_classes(mine.model, TEN, five.descriptor.classes)
        narrow.append(five)
    pool = [*wide, Task(descriptor=attrs.evolve(wide[0].descriptor, task_id="base"), model=start)]
    names = tuple(t.task_id for t in wide)
    for number in range(4):
        four = sorted(rng.choice(sorted(covered), 4, replace=False))  # some source knows each
        new = digits("plain", seed, four, f"new-{number}")
        inputs = new.data("train").inputs
        scratch = evaluate(learned(new, fresh(kind, 4, seed + 50), 300, 3e-3, seed), new, "test")
        head = for_classes(start, TEN, new.descriptor.classes)
        best = max(scratch, evaluate(learned(new, head, 200, 1e-3, seed), new, "test"))
        found["full"].append(best)
        found["the network before"].append(evaluate(head, new, "test") / best)
        singles = [evaluate(for_classes(t.model, TEN, new.descriptor.classes), new, "test") for t in wide if t.model]
        found["best single source (known afterwards)"].append(max(singles) / best)
        for name, (method, options) in METHODS.items():
            maker = made_by(method, options | {"tasks": names}, seed)
            model = maker.synthesize(new.descriptor, pool, TransferGraph(), inputs)
            found[name].append(evaluate(model, new, "test") / best)
            found[f"{name}:"].append(model.provenance.confidence)  # type: ignore[union-attr,arg-type]
        with TransferEngine(discoverers=["skills"], auto_discover=False) as engine:
            for task in narrow:
                engine.register_task(task)
            engine.discover()
            engine.portfolio.add(new, unseen=True)
            model = engine.synthesize_zero_shot_model(new.task_id, "weighted_ensemble", inputs, expect=False)
        found["weighted_ensemble"].append(evaluate(model, new, "test") / best)
    return dict(found)


def unseen(seeds: int, plot: str | None) -> None:
    runs = [remembered(f"unseen-{seed}", lambda s=seed: made_unseen(s)) for seed in range(seeds)]
    every = {name: [value for run in runs for value in run[name]] for name in runs[0]}
    full = every.pop("full")
    rng = np.random.default_rng(0)
    print(f"\nfull training reaches {100 * np.mean(full):.1f} %; {len(full)} new tasks, {seeds} seeds\n")
    print("| made by | share of full training, % | 95 % interval | lowest | stated |\n|---|---:|---:|---:|---:|")
    for name, found in every.items():
        if name.endswith(":"):
            continue
        drawn = rng.choice(found, (2000, len(found))).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        told = f"{np.mean(every[f'{name}:']):.2f}" if every.get(f"{name}:") else ""
        print(f"| {name} | {100 * np.mean(found):.1f} | {100 * low:.1f} to {100 * high:.1f} | {100 * min(found):.1f} "
              f"| {told} |", flush=True)  # fmt: skip


def chosen(task: Task, split: str, keep: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Only these digits, labelled as among ten."""
    data = task.data(split)
    mine = torch.isin(data.targets, torch.tensor(list(keep)))
    return data.inputs[mine], data.targets[mine]


# --- cost


def model_files(count: int) -> list[Path]:
    """Files of ten layers of 1000 x 1000, in single precision; a base that the others are near, and these."""
    FILES.mkdir(parents=True, exist_ok=True)
    found = [FILES / f"model-{k}.safetensors" for k in range(count + 1)]
    for k, file in enumerate(found):
        if not file.exists():
            generator = torch.Generator().manual_seed(0)
            base = {f"layers.{n}.weight": torch.randn(1000, 1000, generator=generator) for n in range(10)}
            own = torch.Generator().manual_seed(k)
            save_file({n: t + 0.1 * torch.randn(t.shape, generator=own) * bool(k) for n, t in base.items()}, file)
    return found


def ours(files: Sequence[Path], out: Path, method: str) -> None:
    from crosstask_merging import merge

    if method == "ties":
        merge(files[1:], out, "ties", base=files[0])
    else:
        merge(files[1:], out, "uniform_soup")


def mergekit(files: Sequence[Path], out: Path, method: str) -> None:
    from mergekit.scripts.merge_raw_pytorch import main

    parameters = {"weight": 1.0, "density": 0.2} if method == "ties" else {"weight": 1.0}
    told = {
        "merge_method": method, "models": [{"model": str(f), "parameters": parameters} for f in files[1:]],
        **({"base_model": str(files[0])} if method == "ties" else {}),
    }  # fmt: skip
    out.with_suffix(".yml").write_text(json.dumps(told), "utf-8")
    main([str(out.with_suffix(".yml")), str(out.with_suffix("")), "--device", "cpu"], standalone_mode=False)


def plain(files: Sequence[Path], out: Path, method: str) -> None:
    """As one would write it: every model in memory."""
    base, *models = (load_file(f) for f in files)
    made = {}
    if method == "linear":
        made = {name: torch.stack([m[name] for m in models]).mean(0) for name in base}
    else:
        names = list(base)
        start = torch.cat([base[n].flatten() for n in names])
        vectors = torch.stack([torch.cat([m[n].flatten() for n in names]) for m in models]) - start
        keep = round(0.2 * vectors.shape[1])
        for vector in vectors:
            vector[vector.abs() < vector.abs().kthvalue(len(vector) - keep + 1).values] = 0
        sign = vectors.sum(0).sign()
        agree = vectors.sign() == sign
        merged = start + (vectors * agree).sum(0) / agree.sum(0).clamp_min(1)
        sizes = [base[n].numel() for n in names]
        made = {n: part.view_as(base[n]).clone() for n, part in zip(names, merged.split(sizes), strict=True)}
    save_file(made, out)


WAYS = {"ours": ours, "plain torch": plain, "mergekit": mergekit}


def peak() -> float:
    """MiB of resident memory, at its highest so far: `ru_maxrss` is at least that of who started the process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def worker(way: str, method: str, count: int) -> None:
    """Prints the CPU seconds of a merge and the resident memory that it added at its peak, in MiB."""
    torch.set_num_threads(1)
    files = model_files(count)
    out = FILES / f"out-{way.replace(' ', '-')}.safetensors"
    WAYS[way](model_files(2), out, method)  # imports, warm
    before, begin = peak(), time.process_time()
    WAYS[way](files, out, method)
    taken = time.process_time() - begin
    print(json.dumps([taken, before, peak() - before]))


def cost(seeds: int, plot: str | None) -> None:
    ways = [w for w in WAYS if w != "mergekit" or os.environ.get("MERGEKIT")]
    path = os.pathsep.join(filter(None, [os.environ.get("MERGEKIT"), os.environ.get("PYTHONPATH")]))
    model_files(16)

    def one(way: str, method: str, count: int) -> Any:
        done = subprocess.run(
            [sys.executable, __file__, "worker", way, method, str(count)],
            capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return json.loads(done.stdout.strip().splitlines()[-1])

    print("\n10 M parameters each, from and to files; memory: what eight or sixteen models add at the peak over two\n")
    print(
        "| method | by | CPU s, 2 models | 4 | 8 | 16 | peak MiB, 2 models | more with 8 | 16 |\n|---|---|"
        + "---:|" * 7
    )
    for method in ("linear", "ties"):
        for way in ways:
            times, peaks, more = zip(
                *(
                    remembered(f"cost-{method}-{way}-{count}", lambda w=way, m=method, c=count: one(w, m, c))
                    for count in (2, 4, 8, 16)
                ),
                strict=True,
            )
            shown = " | ".join(f"{t:.2f}" for t in times)
            print(f"| {method} | {way} | {shown} | {peaks[0]:.0f} | {more[2]:.0f} | {more[3]:.0f} |", flush=True)


PARTS = {"quality": quality, "unseen": unseen, "cost": cost}


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", help="file for a chart of what is kept")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    for part in given.parts or PARTS:
        begin = time.process_time()
        PARTS[part](given.seeds, given.plot)
        print(f"\n({part}: {time.process_time() - begin:.0f} CPU seconds)", flush=True)


if __name__ == "__main__":
    main()
