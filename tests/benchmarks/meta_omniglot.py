"""Accuracy on Omniglot's standard split, beside the published values, with the CPU minutes spent.

    OMP_NUM_THREADS=1 python tests/benchmarks/meta_omniglot.py proto --minutes 6.9
    OMP_NUM_THREADS=1 python tests/benchmarks/meta_omniglot.py maml5 --minutes 15
    OMP_NUM_THREADS=1 python tests/benchmarks/meta_omniglot.py maml20 --minutes 3.5

The split of Vinyals et al. (1028 training and 423 test characters), each turned by 0, 90, 180 and 270 degrees as
classes of their own, as in the papers. Trains for so many minutes of CPU time, learning rate falling as half a cosine;
what is tested is what it ends with. A checkpoint each minute in `places.CACHE`: started again, it goes on.
With `--piece 6` it stops after six minutes more, to be started again.
"""

import argparse
import json
import math
import statistics
import time
from typing import Any

import numpy as np
import torch
from places import CACHE, DATA
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.learning.episodes import episode_accuracy
from crosstask_fewshot import PrototypicalNetwork
from crosstask_maml import MAML
from crosstask_meta import EpisodeSampler

PUBLISHED = {"proto": {5: 98.8, 20: 96.0}, "maml5": {5: 98.7}, "maml20": {20: 95.8}}


def characters(split: int) -> TensorData:
    """Images [N, 1, 28, 28] in 0..1 and a label per character and rotation. `split`: 0 train, 1 validation, 2 test."""
    raw = np.load(DATA / "omniglot28.npz")
    own = raw["vinyals_split"] == split
    images = torch.tensor(raw["images"][own])[:, None].float() / 255
    names = raw["alphabet"][own].astype(int) * 1000 + raw["character"][own]
    labels = torch.tensor(np.unique(names, return_inverse=True)[1])
    count = int(labels.max()) + 1
    turned = [images.rot90(turn, (2, 3)) for turn in range(4)]
    return TensorData(torch.cat(turned), torch.cat([labels + turn * count for turn in range(4)]))


def conv4(outputs: int | None) -> nn.Sequential:
    """Four blocks of 64 channels, as in the papers: with a head, strided convolutions (Finn et al., section 5.2), else
    pooling (Snell et al., section 3.1), before ReLU, which is the same and less work.
    """
    layers: list[nn.Module] = []
    for before in (1, 64, 64, 64):
        layers += [nn.Conv2d(before, 64, 3, stride=1 if outputs is None else 2, padding=1), nn.BatchNorm2d(64)]
        layers += [nn.MaxPool2d(2), nn.ReLU()] if outputs is None else [nn.ReLU()]
    layers += [nn.Flatten()] + ([] if outputs is None else [nn.Linear(256, outputs)])
    return nn.Sequential(*layers)


def setting(name: str) -> tuple[Any, nn.Module, dict[str, int], int, int | None]:
    """(learner, model, episodes of the training, their number in a step, inner steps of the test)."""
    if name == "proto":
        return PrototypicalNetwork(), conv4(None), {"ways": 60, "shots": 1, "queries": 5}, 1, None
    if name == "maml5":
        learner = MAML(lr_inner=0.4, num_inner_steps=1, lr_meta=0.002)
        return learner, conv4(5), {"ways": 5, "shots": 1, "queries": 1}, 16, 3
    return MAML(lr_inner=0.4, num_inner_steps=1, lr_meta=0.002), conv4(20), {"ways": 20, "shots": 1, "queries": 1}, 8, 3


def train(name: str, minutes: float, piece: float) -> nn.Module | None:
    """The trained model, or None if it stopped after `piece` minutes before it was done."""
    torch.manual_seed(0)
    learner, model, sizes, batch, _ = setting(name)
    model = model.to(memory_format=torch.channels_last)
    optimizer = learner.optimizer(model)
    sampler, generator = EpisodeSampler(characters(0), **sizes), torch.Generator().manual_seed(1)
    saved = CACHE / f"omniglot-{name}.pt"
    spent, step, losses = 0.0, 0, []
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        spent, step = state["spent"], state["step"]
    before, told = spent, spent
    start = time.process_time() - spent
    while (spent := time.process_time() - start) < 60 * minutes:
        for group in optimizer.param_groups:
            group["lr"] = learner.lr_meta * (1 + math.cos(math.pi * spent / (60 * minutes))) / 2 + 1e-6
        episodes = sampler.sample(batch, generator)
        losses.append(learner.meta_step(model, episodes, optimizer))
        step += 1
        if spent - told > 60:
            told = spent
            accuracy = statistics.mean(m["accuracy"] for m in losses)
            print(f"{name} {spent:.0f} s, step {step}, training accuracy {accuracy:.3f}", flush=True)
            losses = []
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "spent": spent, "step": step}
            torch.save(state | {"generator": generator.get_state()}, saved)
            if spent - before > 60 * piece and 60 * minutes - spent > 90:
                return None
    print(f"{name}: {step} steps in {spent / 60:.1f} CPU minutes", flush=True)
    torch.save({"model": model.state_dict()} | {"spent": spent, "step": step}, CACHE / f"omniglot-{name}-final.pt")
    return model


@torch.no_grad()
def tested(name: str, model: nn.Module, ways: int, episodes: int) -> tuple[float, float]:
    """(accuracy in percent over so many test episodes with 5 queries per class, half its 95 % interval)."""
    learner, _, _, _, steps = setting(name)
    sampler, generator = EpisodeSampler(characters(2), ways=ways, shots=1, queries=5), torch.Generator().manual_seed(2)
    found: list[Tensor] = []
    for _ in range(episodes // 20):
        part = sampler.sample(20, generator)
        found.append(episode_accuracy(learner.predict(model, part, steps), part.query_targets))
    values = 100 * torch.cat(found)
    return float(values.mean()), float(1.96 * values.std() / len(values) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PUBLISHED)
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--piece", type=float, default=math.inf)
    given = parser.parse_args()
    torch.set_num_threads(1)
    CACHE.mkdir(exist_ok=True)
    model = train(given.name, given.minutes, given.piece)
    if model is None:
        return
    for ways, published in PUBLISHED[given.name].items():
        mean, half = tested(given.name, model, ways, 1000 if ways == 5 else 400)
        told = {"name": given.name, "ways": ways, "accuracy": mean, "interval": half, "minutes": given.minutes}
        print(f"{given.name} {ways}-way 1-shot: {mean:.2f} ± {half:.2f} % (published {published})", flush=True)
        with (CACHE / "omniglot.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
