"""Adapters beside PEFT: what a LoRA costs, switching, sixteen in one batch, import, files; and what each kind learns.

    OMP_NUM_THREADS=1 python tests/benchmarks/adapters.py [cost | floor | switch | mixed | import | files | learn]

CPU time on one thread; variants take turns in each round of one process, figures are medians of ratios within a round.
PEFT comes with the `bench` extra.
"""

import argparse
import copy
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.engine import TransferEngine
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask_adapters import AdapterConfig, AdapterModel

RANK, ALPHA = 8, 16.0
PAIRS = (  # as in the README of crosstask-finetuning
    ("digits", "blurred"), ("inverted", "digits"), ("inverted", "high"), ("loop", "prime"), ("digits", "rotated"),
    ("digits", "shuffled"),
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"use": "lora", "r": 8},
    "bitfit": {"use": "bitfit"},
    "bottleneck": {"use": "bottleneck", "hidden_dim": 16},
    "compacter": {"use": "compacter", "hidden_dim": 16},
    "ia3": {"use": "ia3"},
}


class ByHand(nn.Module):
    """A linear layer and its low rank in three calls of torch: what no library can go below."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight.requires_grad_(False), layer.bias
        self.up, self.down = (
            nn.Parameter(torch.randn(len(self.weight), RANK)),
            nn.Parameter(torch.randn(RANK, self.weight.shape[1])),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        return y.addmm_(torch.mm(self.down, x.t()).t(), self.up.t(), alpha=ALPHA / RANK)


class Encoder(nn.Module):
    """A transformer encoder that PEFT can adapt: projections that are layers, and no fused path."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.o(mixed))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


def mlp(width: int, layers: int = 4) -> nn.Module:
    steps = [step for _ in range(layers - 1) for step in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*steps, nn.Linear(width, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "MLP 256 x 4, batch 64": (lambda: mlp(256), (64, 256), ["0", "2", "4", "6"]),
    "MLP 512 x 4, batch 64": (lambda: mlp(512), (64, 512), ["0", "2", "4", "6"]),
    "MLP 1024 x 4, batch 64": (lambda: mlp(1024), (64, 1024), ["0", "2", "4", "6"]),
    "encoder 128 x 4, batch 16 of 32": (
        lambda: Encoder(128, 4, 4), (16, 32, 128), ["q", "k", "v", "o", "up", "down"]
    ),
    "encoder 256 x 4, batch 16 of 32": (
        lambda: Encoder(256, 4, 4), (16, 32, 256), ["q", "k", "v", "o", "up", "down"]
    ),
    "encoder 256 x 4, q and v only": (lambda: Encoder(256, 4, 4), (16, 32, 256), ["q", "v"]),
}  # fmt: skip


def seconds(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def in_turn(variants: dict[str, Callable[[], object]], rounds: int, first: str) -> dict[str, float]:
    """Median over rounds of each variant's time as a multiple of the first's; and the first's in seconds."""
    for variant in variants.values():
        variant()
        variant()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for k in range(rounds):
        names = list(variants)
        for name in names[k % len(names) :] + names[: k % len(names)]:
            times[name].append(seconds(variants[name]))
    found = {n: statistics.median(t / b for t, b in zip(times[n], times[first], strict=True)) for n in variants}
    found["seconds"] = statistics.median(times[first])
    return found


def stirred(model: nn.Module) -> nn.Module:
    """With both factors of every LoRA drawn."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(0.05 * torch.randn(p.shape, generator=generator))
                assert "weight" in name or "lora" in name or "_adapters" in name
    return model


def pefts(base: nn.Module, targets: list[str]) -> Any:
    import peft

    return peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))


def ours(base: nn.Module, targets: list[str], names: Sequence[str] = ()) -> AdapterModel:
    config = AdapterConfig(lora_r=RANK, lora_alpha=ALPHA, target_modules=tuple(targets))
    return AdapterModel(base, dict.fromkeys(names, config) or config)


def cost(rounds: int) -> None:
    print("\nLoRA r = 8 at every linear layer, as a multiple of the same pass of the bare model; the step trains what "
          "is adapted, the bare one all of it\n")  # fmt: skip
    print("| model | bare forward | ours | PEFT | bare step (all weights) | ours | PEFT |\n" + "|---|" + "---:|" * 6)
    for name, (build, shape, targets) in CASES.items():
        torch.manual_seed(0)
        base = build()
        x = torch.randn(shape)
        models = {
            "bare": base,
            "ours": stirred(ours(copy.deepcopy(base), targets)),
            "peft": stirred(pefts(copy.deepcopy(base), targets)),
        }
        repeats = max(1, int(0.02 / max(1e-5, seconds(lambda base=base, x=x: base(x)))))

        def forward(model: nn.Module, repeats: int = repeats, x: Tensor = x) -> None:
            with torch.no_grad():
                for _ in range(repeats):
                    model(x)

        def step(model: nn.Module, repeats: int = repeats, x: Tensor = x) -> None:
            for _ in range(max(1, repeats // 3)):
                model(x).square().mean().backward()

        passes = in_turn({n: (lambda m=m: forward(m)) for n, m in models.items()}, rounds, "bare")
        steps = in_turn({n: (lambda m=m: step(m)) for n, m in models.items()}, rounds, "bare")
        bare, both = 1e3 * passes["seconds"] / repeats, 1e3 * steps["seconds"] / max(1, repeats // 3)
        print(f"| {name} | {bare:.2f} ms | {passes['ours']:.2f} | {passes['peft']:.2f} "
              f"| {both:.2f} ms | {steps['ours']:.2f} | {steps['peft']:.2f} |", flush=True)  # fmt: skip


def floor(rounds: int) -> None:
    print("\nForward of an MLP of four layers, batch 64, without gradients, as a multiple of the bare one\n")
    print("| width | bare | three calls of torch a layer | ours |\n|---|---:|---:|---:|")
    for width in (128, 256, 512):
        torch.manual_seed(0)
        base, x = mlp(width), torch.randn(64, width)
        by_hand = nn.Sequential(*(ByHand(m) if isinstance(m, nn.Linear) else m for m in copy.deepcopy(base)))
        models = {"bare": base, "by hand": by_hand, "ours": stirred(ours(copy.deepcopy(base), ["0", "2", "4", "6"]))}

        def forward(model: nn.Module, x: Tensor = x) -> None:
            with torch.no_grad():
                for _ in range(20):
                    model(x)

        found = in_turn({n: (lambda m=m: forward(m)) for n, m in models.items()}, rounds, "bare")
        print(
            f"| {width} | {1e6 * found['seconds'] / 20:.0f} µs | {found['by hand']:.3f} | {found['ours']:.3f} |",
            flush=True,
        )


def switch(rounds: int) -> None:
    """From one of two adapters to the other, and off and on, in a model of 24 layers."""
    import peft

    targets = ["q", "k", "v", "o", "up", "down"]
    base = Encoder(64, 24, 4)
    mine = ours(copy.deepcopy(base), targets, ("a", "b"))
    theirs = pefts(copy.deepcopy(base), targets)
    theirs.add_adapter("b", peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))

    def off_and_on() -> None:
        with theirs.disable_adapter():
            pass

    actions: dict[str, tuple[Callable[[], object], int]] = {
        "ours, one to the other and back": (lambda: (mine.use("a"), mine.use("b")), 500),
        "PEFT, one to the other and back": (lambda: (theirs.set_adapter("default"), theirs.set_adapter("b")), 3),
        "ours, off and on": (lambda: (mine.disable_adapters(), mine.enable_adapters("b")), 500),
        "PEFT, off and on": (off_and_on, 3),
    }
    print("\n| 24 layers, 144 adapted | µs per switch |\n|---|---:|")
    for name, (action, repeats) in actions.items():
        found = [
            seconds(lambda action=action, repeats=repeats: [action() for _ in range(repeats)]) / repeats / 2
            for _ in range(rounds)
        ]
        print(f"| {name} | {1e6 * statistics.median(found):.1f} |", flush=True)


def mixed(rounds: int) -> None:
    """Sixteen adapters for the samples of one batch."""
    import peft

    print(
        "\n| 16 adapters in one batch | bare | ours, mixed | one by one | PEFT, mixed | one by one |\n"
        + "|---|"
        + "---:|" * 5
    )
    for name, batch in (("MLP 512 x 4", 64), ("encoder 128 x 4", 16)):
        build, shape, targets = CASES[f"{name}, batch 64" if batch == 64 else f"{name}, batch 16 of 32"]
        torch.manual_seed(0)
        base = build()
        mine = stirred(ours(copy.deepcopy(base), targets, [f"a{k}" for k in range(16)]))
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets)
        theirs = peft.get_peft_model(copy.deepcopy(base), config, adapter_name="a0").eval()
        for k in range(1, 16):
            theirs.add_adapter(f"a{k}", config)
        x = torch.randn(batch, *shape[1:])
        names = [f"a{k % 16}" for k in range(batch)]
        rows = [torch.tensor([i for i, n in enumerate(names) if n == f"a{k}"]) for k in range(16)]

        def apart(mine: Any = mine, x: Tensor = x, rows: list[Tensor] = rows) -> None:
            for k, row in enumerate(rows):
                mine.use(f"a{k}")
                mine(x[row])

        def apart_there(theirs: Any = theirs, x: Tensor = x, rows: list[Tensor] = rows) -> None:
            for k, row in enumerate(rows):
                theirs.set_adapter(f"a{k}")
                theirs(x[row])

        with torch.no_grad():
            found = in_turn(
                {
                    "bare": lambda base=base, x=x: base(x),
                    "ours": lambda mine=mine, x=x, names=names: mine(x, adapters=names),
                    "apart": apart,
                    "peft": lambda theirs=theirs, x=x, names=names: theirs(x, adapter_names=names),
                    "peft apart": apart_there,
                },
                rounds,
                "bare",
            )
        print(f"| {name}, batch {batch} | {1e3 * found['seconds']:.2f} ms | {found['ours']:.2f} | {found['apart']:.2f} "
              f"| {found['peft']:.2f} | {found['peft apart']:.2f} |", flush=True)  # fmt: skip


def imports(rounds: int) -> None:
    """CPU time of fresh processes."""
    lines = {
        "python": "pass",
        "torch": "import torch",
        "ours": "import torch; from crosstask_adapters import AdapterModel; from crosstask_lora import LoRA",
        "PEFT": "import torch; import peft",
    }
    times: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(max(3, rounds // 6)):
        for name, line in lines.items():
            import resource

            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", line], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print("\n| import, CPU seconds | |\n|---|---:|")
    for name in lines:
        print(f"| {name} | {statistics.median(times[name]):.2f} |", flush=True)


def files(rounds: int) -> None:
    """A LoRA on disk, in both formats, and both ways."""
    import peft

    from crosstask_lora import load_peft, save_peft

    print("\n| file of a LoRA | weights | ours | PEFT's own | written for PEFT | apart: ours there, PEFT's here |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in ("MLP 512 x 4, batch 64", "encoder 256 x 4, batch 16 of 32"):
        build, shape, targets = CASES[name]
        torch.manual_seed(0)
        base, x = build().eval(), torch.randn(shape)
        mine = stirred(ours(copy.deepcopy(base), targets))
        theirs = stirred(pefts(copy.deepcopy(base), targets)).eval()
        with tempfile.TemporaryDirectory() as folder:
            one, two, three = (Path(folder) / n for n in ("ours", "theirs", "for-peft"))
            mine.save(one)
            theirs.save_pretrained(str(two))
            save_peft(mine, three, "lora")
            there = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(three)).eval()
            here = AdapterModel(copy.deepcopy(base))
            load_peft(here, two)
            with torch.no_grad():
                apart = [
                    float((a(x) - b(x)).abs().max() / b(x).abs().max()) for a, b in ((there, mine), (here, theirs))
                ]
            sizes = [sum(f.stat().st_size for f in d.iterdir() if f.name != "README.md") for d in (one, two, three)]
        count = sum(p.numel() for p in mine.adapter_parameters())
        shown = " | ".join(f"{size:,}" for size in sizes)
        print(
            f"| {name.partition(',')[0]} | {4 * count:,} bytes | {shown} | {apart[0]:.1e}, {apart[1]:.1e} |", flush=True
        )


def learn(rounds: int) -> None:
    """Transfer coefficients on the digits portfolio: 50 samples, 60 steps, MLP 64-64, five seeds."""
    names = sorted({task for pair in PAIRS for task in pair})
    source: Any = Registry.installed().create("source", "digits", {"tasks": names})
    print("\n| transfer | " + " | ".join(f"{a} → {b}" for a, b in PAIRS) + " |\n|---|" + "---:|" * len(PAIRS))
    budget = Budget(steps=60, samples=50, learning_rate=3e-3, evaluate_every=10)
    with TransferEngine(discoverers=(), auto_discover=False, budget=budget, seeds=5) as engine:
        engine.register(source.load())
        methods: dict[str, Any] = {"lp_ft": ("lp_ft", {}), "feature_extraction": ("feature_extraction", {})}
        methods |= {f"adapter, {name}": ("adapter", {"adapter": options}) for name, options in KINDS.items()}
        for name, (method, options) in methods.items():
            found = [
                engine.transfer_knowledge(a, b, engine.registry.create("transfer", method, options)).coefficient
                for a, b in PAIRS
            ]
            shown = " | ".join(f"{c.mean:+.2f} ± {(c.high - c.low) / 2:.2f}" for c in found)
            print(f"| {name} | {shown} |", flush=True)


PARTS = {
    "cost": cost,
    "floor": floor,
    "switch": switch,
    "mixed": mixed,
    "import": imports,
    "files": files,
    "learn": learn,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    for part in given.parts or PARTS:
        PARTS[part](given.rounds)


if __name__ == "__main__":
    main()
