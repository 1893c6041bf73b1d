"""Which of my models for a new target: python tests/benchmarks/own_models.py [--draws 5] [--seeds 3] [--plain]

Eight networks of eight architectures, two trained on each of MNIST, Fashion-MNIST, USPS and scikit-learn's digits (all
at 16 x 16), are registered as they are. Six new targets with 50 labelled samples each, written down here before the
first run, are learned from every one of them, which is what trying all means; `engine.advise` sees the 50 samples alone
and may spend a quarter of that. Regret is the test accuracy of the best source (over the seeds, on these 50 samples)
less that of the advised one. `--plain` adds what simpler rules would have chosen from the same samples.

Each draw of 50 samples is a decision of its own; the interval is Student's over the decisions, and over the targets'
means. Results are kept in `places.CACHE`: a call that was stopped goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from places import CACHE, DATA
from torch import Tensor, nn
from torch.nn import functional

from crosstask import Budget, Task, TaskDescriptor, TransferEngine
from crosstask.learning.metrics import confidence_interval
from crosstask.learning.modules import seeded
from crosstask.learning.training import evaluate, fit

SAMPLES, STEPS, SIZE = 50, 100, 16
TARGETS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], int]] = {
    "fashion shoes": ("fashion", lambda y: np.isin(y, (5, 7, 9)).astype(int), 2),
    "mnist parity": ("mnist", lambda y: y % 2, 2),
    "usps digits": ("usps", lambda y: y, 10),
    "digits loops": ("digits", lambda y: np.isin(y, (0, 6, 8, 9)).astype(int), 2),
    "mnist above four": ("mnist", lambda y: (y > 4).astype(int), 2),
    "fashion ten": ("fashion", lambda y: y, 10),
}
"""Name -> (data set, labels of its classes, number of classes)."""


# Eight architectures --------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.classify = nn.Linear(2 * width, classes)  # declared first, used last
        self.one, self.two = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.three = nn.Conv2d(2 * width, 2 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.one(x).relu(), 2)
        x = functional.max_pool2d(self.two(x).relu(), 2)
        return self.classify(self.three(x).relu().mean((2, 3)))


class AllConv(nn.Module):
    """Convolutions to the end: its head is one of 1 x 1."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32),
            nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.out(self.body(x))
        return maps.mean((2, 3)), maps


class Residual(nn.Module):
    """Two residual blocks with batch normalisation."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)) for _ in range(2)
        )
        self.fc = nn.Linear(width * 16, classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            x = functional.avg_pool2d(x + block(x), 2)
        return {"logits": self.fc(x.flatten(1)), "maps": x}


class Attention(nn.Module):
    """A small vision transformer with a class token of its own."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.patches = nn.Conv2d(1, width, 4, 4)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.mlp_head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.places
        return self.mlp_head(self.layers(tokens)[:, 0])


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self, width: int = 48, classes: int = 10) -> None:
        super().__init__()
        self.reader, self.answer = nn.GRU(SIZE, width, batch_first=True), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.reader(x[:, 0])[0][:, -1])


class Loose(nn.Module):
    """A perceptron whose last layer is no module: `forward` uses its parameters."""

    def __init__(self, width: int = 96, classes: int = 10) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(SIZE * SIZE, width), nn.Linear(width, width)
        self.weight = nn.Parameter(torch.randn(classes, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.two(self.one(x.flatten(1)).relu()).relu(), self.weight, self.bias)


def mixer() -> nn.Module:
    """A perceptron with layer normalisation."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIZE * SIZE, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 64), nn.GELU(),
        nn.Linear(64, 10),
    )  # fmt: skip


ZOO: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "mnist conv": ("mnist", Conv),
    "mnist attention": ("mnist", Attention),
    "fashion residual": ("fashion", Residual),
    "fashion all-conv": ("fashion", AllConv),
    "usps rows": ("usps", Rows),
    "usps mixer": ("usps", mixer),
    "digits loose": ("digits", Loose),
    "digits wide conv": ("digits", lambda: Conv(24)),
}


# Data -----------------------------------------------------------------------------------------------------------------


def images(name: str) -> tuple[Tensor, np.ndarray, Tensor, np.ndarray]:
    """(training images [N, 1, 16, 16] in 0..1, labels, test images, labels)."""
    if name == "digits":
        from sklearn.datasets import load_digits

        raw = load_digits()
        order = np.random.default_rng(0).permutation(len(raw.target))
        x, y = (raw.images / 16)[order], raw.target[order]
        parts = x[:1000], y[:1000], x[1000:], y[1000:]
    else:
        files = {"mnist": "mnist_20k_10k", "fashion": "fashion_mnist_20k_10k", "usps": "usps_7291_2007"}
        with np.load(DATA / f"{files[name]}.npz") as held:
            parts = tuple(held[k] for k in ("x_train", "y_train", "x_test", "y_test"))  # type: ignore[assignment]
        parts = parts[0] / 255.0, parts[1], parts[2][:3000] / 255.0, parts[3][:3000]
    sized = [
        functional.interpolate(torch.as_tensor(x, dtype=torch.float32).reshape(len(x), 1, *x.shape[-2:]), (SIZE, SIZE),
                               mode="bilinear", antialias=True)
        for x in (parts[0], parts[2])
    ]  # fmt: skip
    return sized[0], parts[1].astype(int), sized[1], parts[3].astype(int)


def sources() -> list[Task]:
    """The eight tasks with their trained models. The first half of the training data is the sources'."""
    found = []
    for number, (name, (data, make)) in enumerate(ZOO.items()):
        x, y, tx, ty = images(data)
        half = len(x) // 2
        with seeded(number):
            model = make()
        task = Task(descriptor=TaskDescriptor(task_id=name, domain=data, output_dim=10), train=(x[:half], y[:half]),
                    test=(tx, ty))  # fmt: skip
        kept = CACHE / f"own-{name.replace(' ', '-')}.pt"
        if kept.exists():
            model.load_state_dict(torch.load(kept, weights_only=True))
        else:
            fit(model, task, Budget(steps=1500, batch_size=64, learning_rate=2e-3), torch.Generator().manual_seed(0),
                curve_split=None)  # fmt: skip
            CACHE.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), kept)
        print(f"{name:20} {evaluate(model, task, 'test'):.3f}", flush=True)
        task.model = model.eval()
        found.append(task)
    return found


def target(name: str, draw: int) -> Task:
    """A target with 50 samples of the second half of the training data."""
    data, labels, classes = TARGETS[name]
    x, y, tx, ty = images(data)
    half = len(x) // 2
    order = np.random.default_rng([draw, 7]).permutation(np.arange(half, len(x)))[:SAMPLES]
    return Task(
        descriptor=TaskDescriptor(task_id=name, domain=data, output_dim=classes),
        train=(x[order], labels(y[order])),
        test=(tx, labels(ty)),
    )


# The measurement ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    zoo = sources()
    rows, spent, cpu = [], [], []
    rules: dict[str, list[float]] = {}
    for name in TARGETS:
        for draw in range(chosen.draws):
            with TransferEngine(
                budget=Budget(steps=STEPS), seeds=chosen.seeds, auto_discover=False, discoverers=[],
                store=CACHE / "own_models.db",
            ) as engine:  # fmt: skip
                for task in zoo:
                    engine.register_task(task, task.model)
                engine.register_task(target(name, draw))
                started = time.process_time()
                advice = engine.advise(name)
                advising = time.process_time() - started
                started = time.process_time()
                scores = {t.task_id: engine.transfer_knowledge(t.task_id, name).score.mean for t in zoo}
                trying = time.process_time() - started
                alone = engine.transfer_history[-1].scratch_score.mean
            best = max(scores.values())
            took = scores.get(advice.source or "", alone)
            rows.append((name, best - took))
            spent.append(advice.spent)
            cpu.append((advising, trying))
            if chosen.plain:
                looked = max(advice.rows, key=lambda row: row.screened or 0.0).source
                rules.setdefault("features alone, no step", []).append(best - scores[looked])
                rules.setdefault("any source", []).append(best - float(np.mean(list(scores.values()))))
                same = [t.task_id for t in zoo if t.descriptor.domain == TARGETS[name][0]]
                mean = float(np.mean([scores[s] for s in same]))
                rules.setdefault("one of the same data set", []).append(best - mean)
            shown = " ".join(f"{s:.3f}" for s in scores.values())
            told = advice.source or "from scratch"
            head = f"{name:18} {draw} best {best:.3f} advised {told:18} {took:.3f} scratch {alone:.3f}"
            print(f"{head} | {shown}", flush=True)
    regrets = [r for _, r in rows]
    means = [float(np.mean([r for n, r in rows if n == name])) for name in TARGETS]
    print(f"\nmean regret {confidence_interval(regrets)} over {len(regrets)} decisions")
    print(f"            {confidence_interval(means)} over the {len(means)} targets' means")
    print(f"steps spent, of trying all: {np.mean(spent):.3f}")
    fresh = [(a, t) for a, t in cpu if t > 1]
    if fresh:
        advising, trying = np.mean(fresh, axis=0)
        print(f"CPU seconds to advise {advising:.1f}, to try all {trying:.1f}")
    for rule, found in rules.items():
        print(f"  {rule:24} {confidence_interval(found)}")


if __name__ == "__main__":
    main()
