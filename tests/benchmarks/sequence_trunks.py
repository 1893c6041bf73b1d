"""Gram matrix and update of T losses on transformers and LSTMs, against T backward passes, a copy and a read.

    python tests/benchmarks/sequence_trunks.py

CPU time, one thread, interleaved; `auto` chooses for each linear layer whether its gradients are formed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from crosstask.learning.gradients import Mode, gradients_of

CASES = [
    ("transformer", 128, 8, 8, 4), ("transformer", 128, 8, 8, 12), ("transformer", 128, 32, 16, 4),
    ("transformer", 128, 32, 16, 12), ("transformer", 256, 16, 16, 8),
    ("lstm", 128, 32, 16, 4), ("lstm", 128, 32, 16, 12), ("lstm", 256, 8, 8, 12),
]  # fmt: skip
"""(trunk, width, samples, length, tasks)."""


def trunk_of(kind: str, width: int) -> nn.Module:
    if kind == "lstm":
        return nn.LSTM(width, width, batch_first=True)
    layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def measure(kind: str, width: int, samples: int, length: int, tasks: int, rounds: int) -> str:
    torch.manual_seed(0)
    trunk, heads = trunk_of(kind, width), nn.ModuleList(nn.Linear(width, 3) for _ in range(tasks))
    batch, shared = torch.randn(samples, length, width), list(trunk.parameters())
    size = sum(p.numel() for p in shared)

    def losses() -> list[Tensor]:
        found = trunk(batch)
        features = (found[0] if isinstance(found, tuple) else found).mean(1)
        return [((head(features) - n) ** 2).mean() for n, head in enumerate(heads)]

    def floor() -> str:
        rows = torch.empty(tasks, size)
        for number, loss in enumerate(losses()):
            own = list(heads[number].parameters())
            found = torch.autograd.grad(loss, [*shared, *own], retain_graph=number < tasks - 1)
            torch.cat([g.reshape(-1) for g in found[: len(shared)]], out=rows[number])
        weights = 1 / (rows @ rows.T).diagonal().sqrt()
        return str((weights @ rows).shape)

    def ours(mode: Mode) -> Callable[[], str]:
        def run() -> str:
            gradients = gradients_of(losses(), shared, None, mode=mode, retain_graph=False)
            gradients.write(1 / gradients.gramian.diagonal().sqrt(), None, False)
            for parameter in [*shared, *heads.parameters()]:
                parameter.grad = None
            return gradients.chosen

        return run

    ways = {"floor": floor, "auto": ours("auto"), "layers": ours("layers"), "matrix": ours("matrix")}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    chosen = ""
    for _ in range(rounds + 1):
        for name, run in ways.items():
            began = time.process_time()
            chosen = run() if name == "auto" else (run() and chosen)
            taken[name].append(time.process_time() - began)
    least = taken["floor"][1:]
    ratios = [statistics.median(a / b for a, b in zip(times[1:], least, strict=True)) for times in taken.values()]
    unformed = chosen.partition(", ")[2].partition(" linear")[0]
    cells = [f"{1e3 * statistics.median(least):.1f}", *(f"{ratio:.2f}" for ratio in ratios[1:]), unformed]
    return f"| {kind} {width} | {samples} x {length} | {tasks} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| trunk | batch | tasks | floor, ms | auto | layers | matrix | layers unformed by auto |")
    print("|---" * 8 + "|")
    for case in CASES:
        print(measure(*case, rounds), flush=True)


if __name__ == "__main__":
    main()
