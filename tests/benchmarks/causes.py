"""Which of a source's classes and skills brought a transfer: is the known answer found, how often is a false one?

    python tests/benchmarks/causes.py                    # small
    python tests/benchmarks/causes.py --repeats 20

Classes, *known*: of ten source classes 3, 5 and 8 are images of these digits, the other seven noise of a brightness of
their own; the target tells faded 3, 5 and 8 apart from 12 samples. *Null*: the labels of the source are drawn at
random, so that to be without a class is to be without as many samples at random: whatever is named is false (5 % of the
repeats may name one). Skills, *known*: images of two digits side by side, a source that knows both, skills `left` and
`right`, a target that asks for one of them from 60 samples.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.learning.models import ModelSpec
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask_transfer.causes import class_causes, skill_causes
from crosstask_transfer.testing import digits

SPLITS = ("train", "validation", "test")
USEFUL = (3, 5, 8)


def known(seed: int = 0) -> Portfolio:
    """The source of which three classes can help, and the target."""
    whole, splits = digits(), {}
    for split in SPLITS:
        data = whole.data(split)
        inputs, generator = data.inputs.clone(), torch.Generator().manual_seed(seed)
        for label in set(range(10)) - set(USEFUL):
            rows = data.targets == label
            inputs[rows] = (0.2 + 0.1 * label) * torch.rand(inputs[rows].shape, generator=generator)
        splits[split] = inputs, data.targets
    return Portfolio([_task("source", splits, 10), digits("faded", USEFUL)])


def null(seed: int) -> Portfolio:
    """The same with labels that are drawn at random."""
    whole, splits = digits(), {}
    for split in SPLITS:
        data = whole.data(split)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        splits[split] = data.inputs, data.targets[order]
    return Portfolio([_task("source", splits, 10), digits("faded", USEFUL)])


def two(seed: int) -> Portfolio:
    """Two digits side by side: asked for both, for the left and for the right."""
    whole = digits()

    def task(name: str, label: Callable[[Tensor, Tensor], Tensor], classes: int, *skills: str) -> Task:
        splits = {}
        for split in SPLITS:
            data, generator = whole.data(split), torch.Generator().manual_seed(seed)
            one, other = (torch.randperm(len(data), generator=generator) for _ in range(2))
            pair = torch.cat([data.inputs[one], data.inputs[other]], -1)
            splits[split] = pair, label(data.targets[one], data.targets[other])
        return _task(name, splits, classes, skills)

    return Portfolio([
        task("source", lambda left, right: 3 * (left % 3) + right % 3, 9, "left", "right"),
        task("left", lambda left, right: left % 3, 3, "left"), task("right", lambda left, right: right % 3, 3, "right"),
    ])  # fmt: skip


def _task(name: str, splits: dict[str, Any], classes: int, skills: tuple[str, ...] = ()) -> Task:
    names = tuple(map(str, range(classes)))
    shape = tuple(splits["train"][0].shape[1:])
    about = TaskDescriptor(task_id=name, input_shape=shape, output_dim=classes, classes=names, required_skills=skills)
    return Task(descriptor=about, **splits)


def engine(tasks: Portfolio, seed: int, samples: int) -> TransferEngine:
    made = TransferEngine(
        model=ModelSpec(hidden=(64,)), train=Budget(steps=250, learning_rate=3e-3), seed=seed, discoverers=[],
        budget=Budget(steps=60, samples=samples, learning_rate=3e-3), transfer="feature_extraction",
        auto_discover=False,
    )  # fmt: skip
    made.register(tasks)
    made.train(["source"])
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f}, {given.repeats} repeats, 6 seeds each, 8 of skills\n")
    print("| what | true causes named | false causes named | repeats with a false one | CPU s each |")
    print("|---|---|---|---|---|")
    for name, make, true in (("classes, known", known, {"3", "5", "8"}), ("classes, null", null, set())):
        started, right, wrong, any_wrong = time.process_time(), 0, 0, 0
        for seed in range(given.repeats):
            with engine(make(seed), seed, 12) as made:
                source, target = made.portfolio
                found = class_causes(made.method(), source, target, made.train_budget, made.budget, seeds=6, controls=3)
            named = {effect.name for effect in found.effects if effect.helps or effect.harms}
            right, wrong = right + len(named & true), wrong + len(named - true)
            any_wrong += bool(named - true)
        spent = (time.process_time() - started) / given.repeats
        share = f"{right} of {given.repeats * len(true)}" if true else "–"
        out_of = given.repeats * (10 - len(true))
        print(f"| {name} | {share} | {wrong} of {out_of} | {any_wrong} of {given.repeats} | {spent:.1f} |", flush=True)
    started, right, wrong = time.process_time(), 0, 0
    for seed in range(given.repeats):
        with engine(two(seed), seed, 60) as made:
            side = ("left", "right")[seed % 2]
            found = skill_causes(
                made.method(), made.portfolio["source"], made.portfolio[side], made.portfolio, made.budget, seeds=8,
                controls=5, share=0.5,
            )  # fmt: skip
        right, wrong = right + (side in found.helping), wrong + len(set(found.helping) - {side})
    spent = (time.process_time() - started) / given.repeats
    print(f"| skills, known | {right} of {given.repeats} | {wrong} of {given.repeats} | {wrong} | {spent:.1f} |")


if __name__ == "__main__":
    main()
