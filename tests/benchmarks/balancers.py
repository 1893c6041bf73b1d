"""Speed and memory of gradient balancing beside TorchJD.

    OMP_NUM_THREADS=1 python tests/benchmarks/balancers.py [--quick]

Every step is a forward pass, the backward passes and what is between them. Methods take turns within each round of one
process, so that whatever else the machine does hits all of them alike; figures are medians of CPU time on one thread.
"""

import argparse
import ctypes
import functools
import gc
import importlib
import importlib.metadata
import itertools
import math
import os
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
import torch
from torch import Tensor, nn
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from crosstask.points.balancer import Balancer

TASKS = (2, 4, 8, 16, 40)
TARGETS = {
    "mlp": dict(zip(TASKS, (1.9, 2.7, 3.8, 6.0, 10.0), strict=True)),
    "mlp rgb": dict(zip(TASKS, (3.0, 3.7, 4.6, 7.0, 10.5), strict=True)),
    "features": dict(zip(TASKS, (1.2, 1.2, 1.2, 1.6, 1.6), strict=True)),
}
OURS = {
    "rgb": "crosstask_rgb.rgb:RGB",
    "pcgrad": "crosstask_pcgrad.pcgrad:PCGrad",
    "upgrad": "crosstask_jacobian.upgrad:UPGrad",
    "nash_mtl": "crosstask_jacobian.nash_mtl:NashMTL",
    "mgda": "crosstask_jacobian.mgda:MGDA",
    "cagrad": "crosstask_jacobian.cagrad:CAGrad",
    "pcd": "crosstask_jacobian.pcd:PCD",
    "krum": "crosstask_robust.krum:Krum",
    "trimmed_mean": "crosstask_robust.trimmed_mean:TrimmedMean",
    "rgw": "crosstask_jacobian.rgw:RGW",
}
LOSS_ONLY = {
    "uncertainty": "crosstask_weighting.uncertainty:Uncertainty",
    "dwa": "crosstask_weighting.dwa:DWA",
    "rlw": "crosstask_weighting.rlw:RLW",
    "equal": "crosstask_weighting.equal:Equal",
}
PEERS: dict[str, Callable[[int], aggregation.Aggregator]] = {
    "upgrad": lambda tasks: aggregation.UPGrad(),
    "pcgrad": lambda tasks: aggregation.PCGrad(),
    "nash_mtl": lambda tasks: aggregation.NashMTL(n_tasks=tasks),
    "mgda": lambda tasks: aggregation.MGDA(),
    "pcd": lambda tasks: aggregation.PCD(),
    "krum": lambda tasks: aggregation.Krum(n_byzantine=(tasks - 3) // 2),
    "trimmed_mean": lambda tasks: aggregation.TrimmedMean(trim_number=min(tasks // 3, (tasks - 1) // 2)),
    "rgw": lambda tasks: aggregation.Random(),
}
LEAST = {"krum": 3}
"""The fewest tasks of those that need some."""


def load(target: str) -> type[Balancer] | None:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


# --- Problems


class Pooled(nn.Module):
    """A small transformer encoder over [N, 16, 64], averaged over positions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.encoder(inputs).mean(1)


def trunk_and_inputs(kind: str) -> tuple[nn.Module, Tensor, int]:
    if kind == "mlp":
        trunk: nn.Module = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU())
        return trunk, torch.randn(128, 512), 512
    if kind == "conv":
        widths, layers = (3, 16, 32, 64), []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 128), nn.ReLU()), torch.randn(32, 3, 32, 32), 128
    return Pooled(), torch.randn(32, 16, 64), 64


class Problem:
    """A trunk, a linear head for each task with ten classes, one batch."""

    def __init__(self, kind: str, tasks: int) -> None:
        torch.manual_seed(0)
        self.tasks = tasks
        self.trunk, self.inputs, width = trunk_and_inputs(kind)
        self.heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(tasks))
        self.labels = [torch.randint(10, (len(self.inputs),)) for _ in range(tasks)]
        self.shared = list(self.trunk.parameters())
        self.values = sum(p.numel() for p in self.shared)
        self.model = nn.ModuleList([self.trunk, self.heads])

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        features = self.trunk(self.inputs)
        pairs = zip(self.heads, self.labels, strict=True)
        return features, [nn.functional.cross_entropy(head(features), labels) for head, labels in pairs]

    def plain(self) -> None:
        _, losses = self.forward()
        sum(losses).backward()

    def passes(self) -> None:
        """T separate backward passes: the floor of whatever forms the gradients."""
        _, losses = self.forward()
        for loss in losses:
            torch.autograd.grad(loss, self.shared, retain_graph=True)

    def passes_copied_and_read(self) -> None:
        """The same, with a copy into one buffer and a weighted sum of its rows."""
        _, losses = self.forward()
        buffer = torch.empty(self.tasks, self.values)
        for row, loss in zip(buffer, losses, strict=True):
            offset = 0
            for gradient in torch.autograd.grad(loss, self.shared, retain_graph=True):
                row[offset : offset + gradient.numel()] = gradient.flatten()
                offset += gradient.numel()
        _ = torch.ones(self.tasks) @ buffer

    def ours(self, balancer: Balancer, *, on_features: bool = False, mode: str = "auto") -> Callable[[], None]:
        def step() -> None:
            features, losses = self.forward()
            balancer.backward(losses, self.shared, features=features if on_features else (), mode=mode)  # type: ignore[arg-type]

        return step

    def torchjd(self, aggregator: aggregation.Aggregator, *, best: bool) -> Callable[[], None]:
        optimised = best and isinstance(aggregator, aggregation.GramianWeightedAggregator)

        def step() -> None:
            features, losses = self.forward()
            mtl_backward(losses, features, parallel_chunk_size=1 if best else None)
            jac_to_grad(self.shared, aggregator, optimize_gramian_computation=optimised)

        return step


def methods_of(problem: Problem) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "plain", problem.plain
    yield "T passes", problem.passes
    yield "T passes + copy + read", problem.passes_copied_and_read
    for name, target in LOSS_ONLY.items():
        if (found := load(target)) is not None:
            yield name, problem.ours(found())
    for name, target in OURS.items():
        if problem.tasks >= LEAST.get(name, 1) and (found := load(target)) is not None:
            yield name, problem.ours(found())
    if (mgda := load(OURS["mgda"])) is not None:
        yield "mgda on features", problem.ours(mgda(), on_features=True)
    for name, make in PEERS.items():
        if problem.tasks < LEAST.get(name, 1):
            continue
        yield f"TorchJD {name}", problem.torchjd(make(problem.tasks), best=False)
        yield f"TorchJD {name}, chunk 1", problem.torchjd(make(problem.tasks), best=True)


# --- Measuring


def measure(
    steps: dict[str, Callable[[], object]], base: str, rounds: int, model: nn.Module | None = None
) -> tuple[float, dict[str, float]]:
    """Median CPU seconds of `base`, and of each step relative to `base` in the same round.

    Every round has its own random order: what runs before a step (caches, freed memory) matters.
    """
    order, shuffle = list(steps), random.Random(0)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        shuffle.shuffle(order)
        for name in order:
            if model is not None:
                model.zero_grad(set_to_none=True)
            start = time.process_time()
            steps[name]()
            if number:  # the first round warms up
                taken[name].append(time.process_time() - start)
    first = taken[base]
    relative = {n: statistics.median(t / f for t, f in zip(v, first, strict=True)) for n, v in taken.items()}
    return statistics.median(first), relative


def peak(step: Callable[[], None], model: nn.Module) -> float:
    """Highest resident memory of two steps above what was there before, in MiB, in a forked process."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        return float(answer)
    try:
        model.zero_grad(set_to_none=True)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        before = _status("VmRSS")
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            step()
        os.write(write, str((_status("VmHWM") - before) / 1024).encode())
    finally:
        os._exit(0)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return (
        f"{model}, one thread, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"TorchJD {importlib.metadata.version('torchjd')}"
    )


# --- Tables


def table(rows: dict[str, dict[int, str]], columns: tuple[int, ...], corner: str) -> str:
    lines = [f"| {corner} | " + " | ".join(f"T = {c}" for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells.get(c, "") for c in columns) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def report_trunk(kind: str, columns: tuple[int, ...], rounds: int, with_memory: bool) -> None:
    relative: dict[str, dict[int, str]] = {}
    against: dict[str, dict[int, str]] = {}
    memory: dict[str, dict[int, str]] = {}
    values = 0
    for tasks in columns:
        problem = Problem(kind, tasks)
        values = problem.values
        steps = dict(methods_of(problem))
        plain_seconds, times = measure(steps, "plain", rounds, problem.model)
        for name, seconds in times.items():
            relative.setdefault(name, {})[tasks] = f"{seconds:.2f}"
            if f"TorchJD {name}" in times:
                default, best = times[f"TorchJD {name}"] / seconds, times[f"TorchJD {name}, chunk 1"] / seconds
                against.setdefault(name, {})[tasks] = f"{default:.1f} / {best:.1f}"
        if with_memory:
            plain = peak(steps["plain"], problem.model)
            for name, step in steps.items():
                extra = peak(step, problem.model) - plain
                floats = extra * 2**20 / 4 / problem.values
                memory.setdefault(name, {})[tasks] = f"{extra:.0f} ({floats:.1f} D)"
        print(f"… {kind}, T = {tasks}: plain step {1000 * plain_seconds:.1f} ms", flush=True)
    print(f"\n### {kind} trunk, {values:,} shared parameters: step relative to a plain one\n")
    print(table(relative, columns, "method"))
    for row in (key for key in TARGETS if key.split()[0] == kind or key == "features"):
        print(f"\nTo reach ({row}): " + ", ".join(f"T = {c}: {TARGETS[row][c]:g}" for c in columns))
    print(f"\n### {kind} trunk: times faster than TorchJD (its default / its best: chunk = 1, optimised Gramian)\n")
    print(table(against, columns, "method"))
    if with_memory:
        print(f"\n### {kind} trunk: peak memory above a plain step's, MiB (in units of D floats)\n")
        print(table(memory, columns, "method"))
    print(flush=True)


def rgb_in_parameter_space(matrix: Tensor, steps: int = 3, rate: float = 0.2) -> Tensor:
    """RGB without the Gram matrix: angles by autograd through [T, D] tensors."""
    tasks = len(matrix)
    units = matrix / matrix.norm(dim=1, keepdim=True)
    consensus = nn.functional.normalize(units.mean(0), dim=0)
    turned = nn.functional.normalize(consensus - (units @ consensus)[:, None] * units, dim=1)
    angles = torch.zeros(tasks, requires_grad=True)
    for _ in range(steps):
        rotated = angles.cos()[:, None] * units + angles.sin()[:, None] * turned
        cosines = rotated @ rotated.T
        conflict = (1 - cosines)[torch.ones(tasks, tasks).triu(1) == 1].sum() / (tasks * (tasks - 1))
        loss = conflict + (rotated - units).pow(2).sum() / (4 * tasks)
        (slope,) = torch.autograd.grad(loss, angles)
        angles = (angles - rate * slope).clamp(0, math.pi / 2).detach().requires_grad_()
    return (angles.cos()[:, None] * units + angles.sin()[:, None] * turned).mean(0).detach()


def report_aggregation(tasks: int, values: int, rounds: int) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(tasks, values) + 0.1 * torch.randn(values)
    vector = torch.randn(values)
    steps: dict[str, Callable[[], object]] = {"one read": lambda: matrix @ vector}
    for name, target in OURS.items():
        if (found := load(target)) is not None:
            steps[name] = functools.partial(found().combine, matrix)
    for name, make in PEERS.items():
        steps[f"TorchJD {name}"] = functools.partial(make(tasks), matrix)
    steps["rgb in parameter space"] = lambda: rgb_in_parameter_space(matrix)
    one_read, times = measure(steps, "one read", rounds)
    print(f"### Aggregation alone, [{tasks}, {values:,}]: in reads of the matrix\n\n| method | reads |\n|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.1f} |")
    print(f"\nTo reach: 5 reads; RGB 30 times faster than in parameter space. One read: {1e3 * one_read:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the MLP trunk, three task counts, three rounds")
    parser.add_argument("--trunks", nargs="+", choices=("mlp", "conv", "transformer"))
    parser.add_argument("--tasks", nargs="+", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--aggregation", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))  # INFO: no line for each choice
    warnings.filterwarnings("ignore", module="cvxpy|torchjd|torch.autograd")  # TorchJD's solvers and batched passes
    trunks = given.trunks or (("mlp",) if given.quick else ("mlp", "conv", "transformer"))
    columns = tuple(given.tasks or ((2, 8, 40) if given.quick else TASKS))
    rounds = given.rounds or (3 if given.quick else 9)
    print(f"{machine()}\n")
    for kind in trunks:
        report_trunk(kind, columns, rounds, given.memory)
    if given.aggregation:
        report_aggregation(8 if given.quick else 40, 1_000_000, rounds=3)


if __name__ == "__main__":
    main()
