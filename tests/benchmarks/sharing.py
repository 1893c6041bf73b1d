"""What sharing architectures cost and bring, beside LibMTL's.

    OMP_NUM_THREADS=1 python tests/benchmarks/sharing.py [--libmtl FOLDER] [--quick] [--only speed|quality]

`--libmtl` is a folder with the package `LibMTL` (`pip download --no-deps LibMTL`, unpacked; of the package index's old
release HPS, MMoE, CGC and DSelect_k take any encoder). What it has for ResNets only, or not at all, stands beside a
twin that is written here from the paper, one expert after another: PLE, MTAN, cross-stitch; and PLE as LibMTL has it.

Speed: a step is zero_grad, forward, equal weights, backward, Adam. The peer gets our weights, and must give our
numbers. All take turns within each round of one process; medians of CPU time on one thread.
Quality: the same network, optimiser, steps and batches for all; nothing is tuned for any. Data: `CROSSTASK_DATA`, else
`shared/data` beside the repository. Adult (income, never married), two overlaid MNIST digits, Book-Crossing (what a
user gave a book, whether they read it; so many users' rows, with as many books that they did not read).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
import torch
from mtl_quality import adult, two_labels
from places import DATA
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import Registry
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError
from crosstask.learning.modules import seeded
from crosstask.tasks import Task

OPTIONS: dict[str, dict[str, Any]] = {
    "hard_parameter_sharing": {},
    "cross_stitch": {},
    "mmoe": {"experts": 4},
    "dselect_k": {"experts": 4, "selectors": 2},
    "cgc": {"shared_experts": 2, "task_experts": 1},
    "ple": {"shared_experts": 2, "task_experts": 1},
    "mtan": {},
}
Peer = Callable[[nn.Module, list[str], Callable[[], nn.Module], tuple[int, ...], dict[str, Any]], nn.Module]


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def conv(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def built(name: str, options: dict[str, Any], tasks: list[Task], trunk: nn.Module, seed: int) -> nn.Module:
    sharing: Any = Registry.installed().create("sharing", name, options)
    sharing.bind(LocalContext(seed=seed))
    return sharing.build(tasks, trunk)


def task(name: str, shape: tuple[int, ...], outputs: int) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs))


# --- LibMTL's


def libmtl(folder: str) -> Any:
    """Its architectures alone: the package itself imports what they do not need."""
    package = types.ModuleType("LibMTL")
    package.__path__ = [f"{folder}/LibMTL"]
    sys.modules["LibMTL"] = package
    import LibMTL.architecture  # type: ignore[import-not-found]

    return LibMTL.architecture


def theirs(architecture: Any, kind: str) -> Peer:
    def make(
        ours: nn.Module, tasks: list[str], encoder: Callable[[], nn.Module], shape: tuple[int, ...], o: dict[str, Any]
    ) -> nn.Module:
        counts = [o["experts"]] if "experts" in o else [o.get("shared_experts", 0)]
        counts += [o.get("task_experts", 0)] * len(tasks)
        known = {"img_size": list(shape), "num_experts": counts, "num_nonzeros": o.get("selectors"), "kgamma": 1.0}
        decoders = nn.ModuleDict({name: copied(ours.heads[f"task {name}"]) for name in tasks})
        made = getattr(architecture, kind)(tasks, encoder, decoders, False, False, torch.device("cpu"), **known)
        if kind == "DSelect_k":  # under NumPy 2 the text "0" is true, and its codes of all experts are the same
            bits = made._num_binary
            rows = [[number >> bit & 1 for bit in reversed(range(bits))] for number in range(made.num_experts)]
            made._binary_codes = torch.tensor(rows, dtype=torch.bool)[None]
        return made

    return make


def give(ours: nn.Module, peer: nn.Module, kind: str, tasks: list[str]) -> None:
    """The peer gets our weights."""
    keys = {name: f"task {name}" for name in tasks}
    if kind == "HPS":
        peer.encoder.load_state_dict(ours.trunk.state_dict())
    if kind in ("MMoE", "DSelect_k"):
        experts_into(ours.experts, peer.experts_shared)
    for name, own in keys.items():
        if kind == "MMoE":
            peer.gate_specific[name][0].load_state_dict(ours.gates[own].linear.state_dict())
        if kind == "DSelect_k":
            peer._z_logits[name].load_state_dict(ours.gates[own].codes.state_dict())
            peer._w_logits[name].load_state_dict(ours.gates[own].weights.state_dict())
        if kind == "CGC":
            level = ours.levels[0]
            experts_into(level.shared, peer.experts_shared)
            experts_into(level.own[own], peer.experts_specific[name])
            # Theirs has the shared experts first, ours the task's own.
            order = [*range(level.own[own].count, level.own[own].count + level.shared.count)]
            order += range(level.own[own].count)
            gate = peer.gate_specific[name][0]
            with torch.no_grad():
                gate.weight.copy_(level.gates[own].linear.weight[order])
                gate.bias.copy_(level.gates[own].linear.bias[order])


def experts_into(ours: nn.Module, peers: nn.ModuleList) -> None:
    stacked = type(ours).__name__ == "Stacked"
    for number, peer in enumerate(peers):
        mine = [p[number] for p in ours.parameters()] if stacked else list(ours.experts[number].parameters())
        with torch.no_grad():
            for one, other in zip(peer.parameters(), mine, strict=True):
                one.copy_(other)


def copied(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)


# --- Twins from the papers


def chunks(network: nn.Module) -> list[nn.Sequential]:
    """An MLP (or a conv network) in its layers with weights, each with what follows."""
    found: list[list[nn.Module]] = [[]]
    for layer in network:
        if any(True for _ in layer.parameters()) and any(any(True for _ in m.parameters()) for m in found[-1]):
            found.append([])
        found[-1].append(layer)
    return [nn.Sequential(*layers) for layers in found]


class TwinPLE(nn.Module):
    """Tang et al. (2020), equations 5 and 6, one expert after another. `separate`: as LibMTL has it, where the shared
    experts take each task's own features, and there is no gate of the shared part.
    """

    def __init__(self, ours: nn.Module, tasks: list[str], encoder: Callable[[], nn.Module], separate: bool) -> None:
        super().__init__()
        self.tasks, self.separate = tasks, separate
        self.levels = nn.ModuleList()
        for number, level in enumerate(ours.levels):
            make = lambda n=number: chunks(encoder())[n]  # noqa: E731
            shared = nn.ModuleList(make() for _ in range(level.shared.count))
            experts_into(level.shared, shared)
            part = nn.ModuleDict({"shared": shared, "own": nn.ModuleDict(), "gates": nn.ModuleDict()})
            for name in tasks:
                own = level.own[f"task {name}"]
                part["own"][name] = nn.ModuleList(make() for _ in range(own.count))
                experts_into(own, part["own"][name])
                part["gates"][name] = copied(level.gates[f"task {name}"].linear)
            if level.gate is not None and not separate:
                part["gate"] = copied(level.gate.linear)
            self.levels.append(part)
        self.heads = nn.ModuleDict({name: copied(ours.heads[f"task {name}"]) for name in tasks})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        own, shared = dict.fromkeys(self.tasks, x), x
        for level in self.levels:
            common = None if self.separate else [e(shared) for e in level["shared"]]
            mine = {name: [e(own[name]) for e in level["own"][name]] for name in self.tasks}
            following = {}
            for name in self.tasks:
                weights = level["gates"][name](own[name].flatten(1)).softmax(-1)
                beside = [e(own[name]) for e in level["shared"]] if common is None else common
                following[name] = torch.einsum("ij...,ji->j...", torch.stack([*mine[name], *beside]), weights)
            if "gate" in level:
                every = [*(common or []), *(e for name in self.tasks for e in mine[name])]
                weights = level["gate"](shared.flatten(1)).softmax(-1)
                shared = torch.einsum("ij...,ji->j...", torch.stack(every), weights)
            own = following
        return {name: self.heads[name](own[name]) for name in self.tasks}


class TwinMTAN(nn.Module):
    """Liu et al. (2019), equations 1 and 2, on an MLP, with our weights. As ours, it normalises every vector by itself
    (with batch normalisation both are worse); f has one normalisation for all tasks.
    """

    def __init__(self, ours: nn.Module, tasks: list[str], encoder: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.tasks, self.stages = tasks, nn.ModuleList(chunks(encoder()))
        with torch.no_grad():
            for one, other in zip(self.stages.parameters(), ours.blocks.parameters(), strict=True):
                one.copy_(other)
        self.f = nn.ModuleList(self.layer(each.layer, nn.ReLU()) for each in ours.onward)
        self.masks = nn.ModuleDict({
            name: nn.ModuleList(
                nn.Sequential(self.layer(each.g, nn.ReLU()), self.layer(each.h, nn.Sigmoid()))
                for each in ours.attentions[f"task {name}"]
            )
            for name in tasks
        })  # fmt: skip
        self.heads = nn.ModuleDict({name: copied(ours.heads[f"task {name}"]) for name in tasks})

    def layer(self, ours: nn.Module, activation: nn.Module) -> nn.Module:
        return nn.Sequential(copied(ours.layer), nn.LayerNorm(ours.layer.out_features), activation)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        shared = []
        for stage in self.stages:
            x = stage(x)
            shared.append(x)
        found = {}
        for name in self.tasks:
            own = None
            for number, u in enumerate(shared):
                seen = u if own is None else torch.cat([u, self.f[number - 1](own)], 1)
                own = self.masks[name][number](seen) * u
            found[name] = self.heads[name](own)
        return found


class TwinCrossStitch(nn.Module):
    """Misra et al. (2016): a network for each task, and after each layer with weights (but the last features too) a
    matrix that mixes their features; initialised 0.9 and 0.1 / (T - 1).
    """

    def __init__(self, ours: nn.Module, tasks: list[str], encoder: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.tasks, count = tasks, len(tasks)
        self.networks = nn.ModuleList(nn.ModuleList(chunks(encoder())) for _ in tasks)
        start = torch.full((count, count), 0.1 / (count - 1)).fill_diagonal_(0.9)
        self.alpha = nn.ParameterList(start.clone() for _ in self.networks[0])
        self.heads = nn.ModuleDict({name: copied(ours.heads[f"task {name}"]) for name in tasks})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        now = [x] * len(self.tasks)
        for number, alpha in enumerate(self.alpha):
            made = [network[number](each) for network, each in zip(self.networks, now, strict=True)]
            now = [sum(alpha[i, j] * other for j, other in enumerate(made)) for i in range(len(made))]
        return {name: self.heads[name](each) for name, each in zip(self.tasks, now, strict=True)}


def peers_of(architecture: Any) -> dict[str, list[tuple[str, str, Peer]]]:
    """By our name: (label, kind, maker)."""
    found: dict[str, list[tuple[str, str, Peer]]] = {
        "ple": [
            ("twin of the paper", "twin", lambda m, t, e, s, o: TwinPLE(m, t, e, False)),
            ("LibMTL's form", "form", lambda m, t, e, s, o: TwinPLE(m, t, e, True)),
        ],
        "mtan": [("twin of the paper", "twin", lambda m, t, e, s, o: TwinMTAN(m, t, e))],
        "cross_stitch": [("twin of the paper", "form", lambda m, t, e, s, o: TwinCrossStitch(m, t, e))],
    }
    if architecture is not None:
        named = {"hard_parameter_sharing": "HPS", "mmoe": "MMoE", "cgc": "CGC", "dselect_k": "DSelect_k"}
        for ours, kind in named.items():
            found.setdefault(ours, []).append(("LibMTL", kind, theirs(architecture, kind)))
    return found


# --- Speed


@attrs.frozen
class Shape:
    name: str
    inputs: tuple[int, ...]
    encoder: Callable[[], nn.Module]
    tasks: int
    batch: int
    factor: int = 1  # on the numbers of experts

    def options(self, name: str) -> dict[str, Any]:
        return {k: v * self.factor if "experts" in k else v for k, v in OPTIONS[name].items()}


SHAPES = (
    Shape("102-64-32, 2 tasks, batch 128", (102,), lambda: mlp(102, 64, 32), 2, 128),
    Shape("324-128-64, 2 tasks, batch 128, twice the experts", (324,), lambda: mlp(324, 128, 64), 2, 128, 2),
    Shape("64-64-64, 8 tasks, batch 256", (64,), lambda: mlp(64, 64, 64), 8, 256),
    Shape("conv 1-8-16 on 18 x 18, 2 tasks, batch 64", (1, 18, 18), lambda: conv(1, 8, 16), 2, 64),
)


class Stepping:
    def __init__(
        self, module: nn.Module, call: Callable[[Tensor], dict[str, Tensor]], x: Tensor, labels: Tensor
    ) -> None:
        self.call, self.x, self.labels = call, x, labels
        self.optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        self.times: list[float] = []
        module.train()

    def step(self) -> None:
        started = time.process_time()
        self.optimizer.zero_grad()
        outputs = self.call(self.x)
        sum(F.cross_entropy(o, self.labels) for o in outputs.values()).backward()
        self.optimizer.step()
        self.times.append(time.process_time() - started)


def speed(architecture: Any, rounds: int) -> None:
    peers = peers_of(architecture)
    for shape in SHAPES:
        names = [f"t{number}" for number in range(shape.tasks)]
        tasks = [task(name, shape.inputs, 3) for name in names]
        torch.manual_seed(0)
        x, labels = torch.randn(shape.batch, *shape.inputs), torch.randint(3, (shape.batch,))
        running: dict[tuple[str, str], Stepping] = {}
        rows: dict[tuple[str, str], tuple[int, float | None]] = {}
        for name in available():
            with seeded(0):
                ours = built(name, shape.options(name), tasks, shape.encoder(), 0)
            call = lambda batch, m=ours, n=names: m(dict.fromkeys(n, batch))  # noqa: E731
            rows[name, "ours"] = sum(p.numel() for p in ours.parameters()), None
            for label, kind, make in peers.get(name, []):
                if shape.name.startswith("conv") and name in ("mtan", "cross_stitch"):
                    continue  # the twins are of MLPs
                other = make(ours, names, shape.encoder, shape.inputs, shape.options(name))
                give(ours, other, kind, names)
                with torch.no_grad():
                    mine, its = call_eval(ours, call, x), call_eval(other, other, x)
                    differs = max(float((mine[n] - its[n]).abs().max()) for n in names)
                running[name, label] = Stepping(other, other, x, labels)
                rows[name, label] = sum(p.numel() for p in other.parameters()), None if kind == "form" else differs
            running[name, "ours"] = Stepping(ours, call, x, labels)
        for _ in range(rounds):
            for each in running.values():
                each.step()
        print(f"\n{shape.name}\n")
        print("| architecture | parameters | ms | beside | parameters | ms | ours / theirs | differs by |")
        print("|---|---:|---:|---|---:|---:|---:|---:|")
        for name in available():
            mine = 1000 * statistics.median(running[name, "ours"].times[rounds // 5 :])
            others = [label for n, label in rows if n == name and label != "ours"]
            for label in others or [""]:
                cells = [name, f"{rows[name, 'ours'][0]:,}", f"{mine:.2f}"]
                if label:
                    size, differs = rows[name, label]
                    its = 1000 * statistics.median(running[name, label].times[rounds // 5 :])
                    same = "other form" if differs is None else f"{differs:.0e}"
                    cells += [label, f"{size:,}", f"{its:.2f}", f"{mine / its:.2f}", same]
                else:
                    cells += ["–"] * 5
                print("| " + " | ".join(cells) + " |", flush=True)


def call_eval(module: nn.Module, call: Callable[[Tensor], dict[str, Tensor]], x: Tensor) -> dict[str, Tensor]:
    module.eval()
    return call(x)


def available() -> list[str]:
    known = Registry.installed().names("sharing")
    return [name for name in OPTIONS if name in known and (not CHOSEN or name in CHOSEN)]


CHOSEN: list[str] = []  # all


# --- Quality


class Lookup(nn.Module):
    """Embeddings of a user and a book side by side."""

    def __init__(self, users: int, books: int, width: int) -> None:
        super().__init__()
        self.user, self.book = nn.Embedding(users, width), nn.Embedding(books, width)
        for table in (self.user, self.book):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.cat([self.user(ids[:, 0]), self.book(ids[:, 1])], dim=1)


@attrs.frozen
class Problem:
    tasks: list[Task]
    inputs: dict[str, Tensor]  # train, test
    labels: dict[str, dict[str, Tensor]]  # by task and split; NaN where there is none
    encoder: Callable[[], nn.Module]  # without what is shared in front
    front: Callable[[], nn.Module] | None
    width: tuple[int, ...]  # what the experts take
    steps: int
    batch: int
    measure: Callable[[str, Tensor, Tensor], float]
    told: str

    def loss(self, name: str, outputs: Tensor, labels: Tensor) -> Tensor:
        known = ~labels.isnan()
        outputs, labels = outputs[known], labels[known]
        if not len(labels):
            return outputs.sum() * 0
        return F.mse_loss(outputs[:, 0], labels) if outputs.shape[1] == 1 else F.cross_entropy(outputs, labels.long())


def accuracy(name: str, outputs: Tensor, labels: Tensor) -> float:
    return 100 * float((outputs.argmax(1) == labels).double().mean())


def plain_problem(tasks: list[Task], encoder: Callable[[], nn.Module], steps: int, told: str) -> Problem:
    inputs = {split: tasks[0].data(split).inputs.flatten(1) for split in ("train", "test")}
    labels = {t.task_id: {split: t.data(split).targets.float() for split in inputs} for t in tasks}
    width = tuple(inputs["train"].shape[1:])
    named = [task(t.task_id, width, int(t.descriptor.output_dim)) for t in tasks]
    return Problem(named, inputs, labels, encoder, None, width, steps, 128, accuracy, told)


def books(seed: int) -> Problem:
    data = np.load(DATA / "book_crossing.npz")
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.unique(data["history"][:, 0]))[:1200]
    read = data["history"][np.isin(data["history"][:, 0], users)].astype(np.int64)
    given = {(int(u), int(b)): float(r) for u, b, r in data["ratings"]}
    count, known = int(data["history"][:, 1].max()) + 1, {(int(u), int(b)) for u, b in read}
    others = np.stack([read[:, 0], rng.integers(1, count, len(read))], axis=1)
    others = np.array([pair for pair in others.tolist() if tuple(pair) not in known])
    ids = np.concatenate([read, others])
    reading = np.concatenate([np.ones(len(read)), np.zeros(len(others))])
    stars = np.array([(given.get((int(u), int(b)), math.nan) - 7.6) / 1.8 for u, b in ids.tolist()])
    stars[len(read) :] = math.nan
    order = rng.permutation(len(ids))
    cut = len(order) * 4 // 5
    places = {"train": order[:cut], "test": order[cut:]}
    inputs = {split: torch.from_numpy(ids[at]) for split, at in places.items()}
    labels = {
        name: {split: torch.from_numpy(values[at]).float() for split, at in places.items()}
        for name, values in (("rating", stars), ("reading", reading))
    }
    kinds = {"rating": (1, "regression"), "reading": (2, "classification")}
    tasks = [
        Task(
            descriptor=TaskDescriptor(task_id=name, input_shape=(2,), output_dim=outputs, task_type=kind),
            train=(inputs["train"][:4], torch.zeros(4) if outputs == 1 else torch.zeros(4).long()),
        )
        for name, (outputs, kind) in kinds.items()
    ]

    def measure(name: str, outputs: Tensor, wanted: Tensor) -> float:
        if name == "rating":
            return 1.8 * float((outputs[:, 0] - wanted).square().mean().sqrt())
        score = outputs[:, 1] - outputs[:, 0]
        ranks = torch.empty_like(score, dtype=torch.double)
        ranks[score.argsort()] = torch.arange(1, len(score) + 1, dtype=torch.double)
        ones = wanted == 1
        positive, negative = int(ones.sum()), int((~ones).sum())
        return 100 * (float(ranks[ones].sum()) - positive * (positive + 1) / 2) / (positive * negative)

    user_count = int(data["history"][:, 0].max()) + 1
    told = "rating: RMSE in stars, less is better; reading: AUC in percent"
    front = lambda: Lookup(user_count, count, 16)  # noqa: E731
    return Problem(tasks, inputs, labels, lambda: mlp(32, 64, 32), front, (32,), 900, 512, measure, told)


SETS: dict[str, Callable[[int], Problem]] = {
    "adult": lambda seed: plain_problem(adult(seed), lambda: mlp(adult_width(), 64, 32), 600, "accuracy in percent"),
    "multimnist": lambda seed: plain_problem(
        two_labels("mnist", "mnist", seed), lambda: mlp(324, 128, 64), 900, "accuracy in percent"
    ),
    "books": books,
}
_WIDTH: list[int] = []


def adult_width() -> int:
    if not _WIDTH:
        _WIDTH.append(int(adult(0)[0].descriptor.input_shape[0]))
    return _WIDTH[0]


class Front(nn.Module):
    """A peer behind what is shared in front of it."""

    def __init__(self, front: nn.Module, peer: nn.Module) -> None:
        super().__init__()
        self.front, self.peer = front, peer

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.peer(self.front(x))


def train(
    module: nn.Module, call: Callable[[Tensor], dict[str, Tensor]], problem: Problem, seed: int
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    names, count = list(problem.labels), len(problem.inputs["train"])
    module.train()
    for _ in range(problem.steps):
        at = torch.randint(count, (problem.batch,), generator=generator)
        optimizer.zero_grad()
        outputs = call(problem.inputs["train"][at])
        sum(problem.loss(n, outputs[n], problem.labels[n]["train"][at]) for n in names).backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        outputs = call(problem.inputs["test"])
    found = {}
    for name in names:
        wanted = problem.labels[name]["test"]
        known = ~wanted.isnan()
        found[name] = problem.measure(name, outputs[name][known], wanted[known])
    return found


def contestants(problem: Problem, architecture: Any, seed: int) -> Iterator[tuple[str, nn.Module, Any]]:
    names = [t.task_id for t in problem.tasks]
    for name in available():
        options = dict(OPTIONS[name])
        with seeded(seed):
            front = problem.front() if problem.front else None
            trunk = problem.encoder() if front is None else nn.Sequential(front, *problem.encoder())
            if front is not None and name in ("mmoe", "dselect_k", "cgc", "ple"):
                options["shared_stages"] = 1
            try:
                ours = built(name, options, problem.tasks, trunk, seed)
            except CrosstaskError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
        yield name, ours, lambda batch, m=ours: m(dict.fromkeys(names, batch))
        for label, _, make in peers_of(architecture).get(name, []):
            if front is not None and name in ("mtan", "cross_stitch"):
                continue
            with seeded(1000 + seed):
                peer = make(ours, names, problem.encoder, problem.width, options)
                redrawn(peer)
                whole = peer if problem.front is None else Front(problem.front(), peer)
            yield f"{name}, {label}", whole, whole


def redrawn(module: nn.Module) -> None:
    for each in module.modules():
        if hasattr(each, "reset_parameters"):
            each.reset_parameters()
    for each in ("_z_logits", "_w_logits"):
        for p in getattr(module, each, nn.Module()).parameters():
            nn.init.uniform_(p, -0.05 if each == "_w_logits" else -0.01, 0.05 if each == "_w_logits" else 0.01)


def quality(architecture: Any, sets: list[str], seeds: int, scale: float) -> None:
    for name in sets:
        found: dict[str, dict[str, list[float]]] = {}
        for seed in range(seeds):
            problem = SETS[name](seed)
            problem = attrs.evolve(problem, steps=max(2, round(problem.steps * scale)))
            for label, module, call in contestants(problem, architecture, seed):
                scores = train(module, call, problem, seed)
                for task_id, value in scores.items():
                    found.setdefault(label, {}).setdefault(task_id, []).append(value)
                print(f"{name} seed {seed} {label} {scores}", file=sys.stderr, flush=True)
        columns = list(next(iter(found.values())))
        print(f"\n{name} ({problem.told}; {problem.steps} steps of {problem.batch}, {seeds} seeds)\n")
        print(f"| architecture | {' | '.join(columns)} |\n|---|" + "---:|" * len(columns))
        for label, values in found.items():
            cells = [
                f"{statistics.mean(v):.2f} ± {statistics.stdev(v) if len(v) > 1 else 0:.2f}" for v in values.values()
            ]
            print(f"| {label} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--libmtl", default="", help="a folder with the package LibMTL")
    parser.add_argument("--only", choices=("speed", "quality"), default=None)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of steps of the quality part")
    parser.add_argument("--architectures", default="", help="some of them; all by default")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the steps, one seed: does everything run?")
    given = parser.parse_args()
    CHOSEN[:] = filter(None, given.architectures.split(","))
    torch.set_num_threads(1)
    architecture = libmtl(given.libmtl) if given.libmtl else None
    started = time.process_time()
    if given.only != "quality":
        speed(architecture, 10 if given.quick else given.rounds)
    if given.only != "speed":
        quality(
            architecture, given.sets.split(","), 1 if given.quick else given.seeds, 0.05 if given.quick else given.scale
        )
    print(f"\n{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
