"""Time of a meta-step and of drawing episodes beside learn2learn 0.2.0, and the same gradients.

    OMP_NUM_THREADS=1 python tests/benchmarks/meta.py [--only sinusoid conv4 episodes prototypes compiled]
        [--order first second] [--inner 1 5] [--queries 1 15]

Its sdist brings C files of an old Cython, and asks for gym, torchvision and others that nothing here needs; so it is
unpacked, its extensions are built again, and LEARN2LEARN names the folder:

    pip download learn2learn==0.2.0 --no-deps --no-binary :all: && tar xf learn2learn-0.2.0.tar.gz
    cd learn2learn-0.2.0 && pip install Cython && python setup.py build_ext --inplace

Whatever is compared takes turns in one process; figures are medians of CPU time on one thread.
"""

import argparse
import copy
import os
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.learning.batched import Batched
from crosstask.learning.episodes import Episodes
from crosstask_fewshot import PrototypicalNetwork
from crosstask_maml import MAML
from crosstask_meta import EpisodeSampler

FOLDER = Path(os.environ.get("LEARN2LEARN", "learn2learn-0.2.0"))


def learn2learn() -> Any:
    """Its MAML and its tasks, without the rest of the package, which asks for gym and more."""
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(FOLDER / name.replace(".", "/"))]
        sys.modules[name] = package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from learn2learn import data
        from learn2learn.algorithms import maml
    return types.SimpleNamespace(MAML=maml.MAML, data=data)


def conv4(outputs: int | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (1, 64, 64, 64):
        layers += [nn.Conv2d(before, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), *([] if outputs is None else [nn.Linear(64, outputs)]))


def sinusoids(tasks: int) -> Episodes:
    """Ten points of a sine of random height and phase to adapt to, ten to be judged on, as Finn et al. have it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(tasks, 20, 1, generator=generator) * 10 - 5
    height, phase = torch.rand(2, tasks, 1, 1, generator=generator) * torch.tensor([[[[4.9]]], [[[3.1416]]]])
    y = (height + 0.1) * torch.sin(x + phase)
    return Episodes(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])


def images(tasks: int, queries: int) -> Episodes:
    generator = torch.Generator().manual_seed(0)
    data = TensorData(torch.rand(5 * 20, 1, 28, 28, generator=generator), torch.arange(100) % 5)
    return EpisodeSampler(data, ways=5, shots=1, queries=queries).sample(tasks, generator)


def peer_step(peer: Any, model: nn.Module, episodes: Episodes, steps: int, first: bool) -> Callable[[], None]:
    """A meta-step as learn2learn's examples have it."""
    learner = peer.MAML(model, lr=0.01, first_order=first)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = functional.mse_loss if episodes.ways is None else functional.cross_entropy

    def step() -> None:
        optimizer.zero_grad()
        for number in range(len(episodes)):
            support, query = episodes.support(number), episodes.query(number)
            clone = learner.clone()
            for _ in range(steps):
                clone.adapt(loss_of(clone(support.inputs), support.targets))
            loss_of(clone(query.inputs), query.targets).backward()
        for parameter in model.parameters():
            parameter.grad.data.mul_(1 / len(episodes))
        optimizer.step()

    return step


def our_step(model: nn.Module, episodes: Episodes, **options: Any) -> Callable[[], None]:
    learner = MAML(lr_inner=0.01, **options)
    optimizer = learner.optimizer(model)
    return lambda: void(learner.meta_step(model, episodes, optimizer))


def void(_: Any) -> None:
    return None


def timed(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:  # the first round warms up
                found[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def disagreement(peer: Any, base: nn.Module, episodes: Episodes, inner: int, first: bool) -> float:
    """Largest difference of a gradient, relative to the largest of its tensor (of all, where that is tiny).

    In double precision: normalisation over five samples and the kinks of ReLU and pooling make much of rounding.
    """
    one, other = (copy.deepcopy(base).double() for _ in range(2))
    exact = episodes.to(torch.float64)
    our_step(one, exact, num_inner_steps=inner, first_order=first)()
    peer_step(peer, other, exact, inner, first)()
    pairs = [(p.grad, q.grad) for p, q in zip(one.parameters(), other.parameters(), strict=True)]
    largest = max(float(q.abs().max()) for _, q in pairs)
    apart = max(float((p - q).abs().max()) / max(float(q.abs().max()), 0.01 * largest) for p, q in pairs)
    assert apart < 1e-5, f"the gradients differ by {apart}"
    return apart


def meta_steps(peer: Any, name: str, base: nn.Module, episodes: Episodes, rounds: int, given: Any) -> None:
    for first in (order == "first" for order in given.order):
        for inner in given.inner:
            models = {who: copy.deepcopy(base) for who in ("learn2learn", "one by one", "ours")}
            options = {"num_inner_steps": inner, "first_order": first}
            steps = {
                "learn2learn": peer_step(peer, models["learn2learn"], episodes, inner, first),
                "one by one": our_step(models["one by one"], episodes, path="loop", tasks_at_once=1, **options),
                "ours": our_step(models["ours"], episodes, **options),
            }
            apart = disagreement(peer, base, episodes, inner, first)
            medians = timed(steps, rounds)
            ratios = {who: medians["learn2learn"] / value for who, value in medians.items()}
            parameters = dict(base.named_parameters())
            at_once = Batched(base).tasks_at_once(parameters, episodes.support_inputs, first)
            print(
                f"{name}, {'first' if first else 'second'} order, {inner} inner: "
                f"learn2learn {medians['learn2learn']:.1f} ms; one by one {ratios['one by one']:.2f} x, "
                f"ours {ratios['ours']:.2f} x ({at_once} tasks at once); gradients differ by {apart:.1e}",
                flush=True,
            )


def compiled(peer: Any, base: nn.Module, episodes: Episodes) -> None:
    for first in (True, False):
        models = {who: copy.deepcopy(base) for who in ("learn2learn", "ours")}
        ours = our_step(models["ours"], episodes, num_inner_steps=1, first_order=first, compile=True)
        start = time.perf_counter()
        ours()
        first_call = time.perf_counter() - start
        steps = {"learn2learn": peer_step(peer, models["learn2learn"], episodes, 1, first), "ours": ours}
        medians = timed(steps, 30)
        print(
            f"sinusoid compiled, {'first' if first else 'second'} order, 1 inner: {medians['ours']:.2f} ms, "
            f"{medians['learn2learn'] / medians['ours']:.1f} x; first call {first_call:.0f} s",
            flush=True,
        )


def characters() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    return TensorData(torch.rand(20 * 1000, 1, 28, 28, generator=generator), torch.arange(20 * 1000) // 20)


def episodes(peer: Any) -> None:
    """16 episodes of 1000 classes with 20 images each, held in memory by both."""
    data, generator = characters(), torch.Generator().manual_seed(1)
    pairs = torch.utils.data.TensorDataset(data.inputs, data.targets)
    transforms = peer.data.transforms
    for ways, queries in ((5, 1), (5, 15), (20, 15)):
        known = peer.data.MetaDataset(pairs)
        wanted = [
            transforms.NWays(known, ways), transforms.KShots(known, 1 + queries), transforms.LoadData(known),
            transforms.RemapLabels(known),
        ]  # fmt: skip
        tasks = peer.data.Taskset(known, task_transforms=wanted, num_tasks=-1)
        sampler = EpisodeSampler(data, ways=ways, shots=1, queries=queries)
        both = {
            "learn2learn": lambda tasks=tasks: void([tasks.sample() for _ in range(16)]),
            "ours": lambda sampler=sampler: void(sampler.sample(16, generator)),
        }
        found = timed(both, 15)
        print(
            f"16 episodes, {ways}-way, 1 + {queries}: learn2learn {found['learn2learn']:.2f} ms, ours "
            f"{found['ours']:.2f} ms, {found['learn2learn'] / found['ours']:.1f} x",
            flush=True,
        )


def prototypes() -> None:
    """A step on 5-way 1-shot episodes with 15 queries: as one finds it written, and as it is quick."""
    torch.manual_seed(0)
    base = conv4(None)
    given = images(4, 15)
    pooled = nn.Sequential(*base)
    for place in range(2, 16, 4):
        pooled[place], pooled[place + 1] = pooled[place + 1], pooled[place]
    pooled = copy.deepcopy(pooled).to(memory_format=torch.channels_last)
    learner, optimizer = PrototypicalNetwork(), torch.optim.Adam(base.parameters(), lr=1e-3)

    def usual() -> None:
        optimizer.zero_grad()
        for number in range(len(given)):
            support, query = given.support(number), given.query(number)
            means = torch.stack([base(support.inputs)[support.targets == k].mean(0) for k in range(5)])
            scores = -torch.cdist(base(query.inputs), means).square()
            (functional.cross_entropy(scores, query.targets) / len(given)).backward()
        optimizer.step()

    own, other = learner.optimizer(pooled), copy.deepcopy(base)
    plain = learner.optimizer(other)
    found = timed(
        {
            "usual": usual,
            "together": lambda: void(learner.meta_step(other, given, plain)),
            "ours": lambda: void(learner.meta_step(pooled, given, own)),
        },
        7,
    )
    told = ", ".join(f"{name} {value:.0f} ms ({found['usual'] / value:.2f} x)" for name, value in found.items())
    print(f"ProtoNet step, conv4, 4 episodes: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("sinusoid", "conv4", "episodes", "prototypes", "compiled")
    parser.add_argument("--only", nargs="*", choices=names, default=names[:-1])
    parser.add_argument("--order", nargs="*", choices=("first", "second"), default=("first", "second"))
    parser.add_argument("--inner", nargs="*", type=int, default=(1, 5))
    parser.add_argument("--queries", nargs="*", type=int, default=(1, 15))
    given = parser.parse_args()
    chosen = given.only
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = learn2learn()
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    if "sinusoid" in chosen:
        meta_steps(peer, "sinusoid 40-40, 32 tasks", net, sinusoids(32), 25, given)
    if "conv4" in chosen:
        for queries in given.queries:
            name = f"conv4 5-way 1-shot, {queries} queries a class, 16 tasks"
            meta_steps(peer, name, conv4(5), images(16, queries), 5 if queries == 1 else 3, given)
    if "episodes" in chosen:
        episodes(peer)
    if "prototypes" in chosen:
        prototypes()
    if "compiled" in chosen:
        compiled(peer, net, sinusoids(32))


if __name__ == "__main__":
    main()
