"""Sites that keep their data beside all data in one place and each site alone: accuracy, bytes sent, CPU time.

    OMP_NUM_THREADS=1 python tests/benchmarks/federation.py [--worlds drawers adult] [--forms fedavg] [--seeds 3]

`drawers`: 40 characters of two Omniglot alphabets at 14x14 pixels; a site is four of the twenty drawers, with 3 samples
of each character to learn from and 1 for the test. `alphabets`: a site is one of six alphabets, its characters by 15
drawers to learn from and 5 for the test; heads stay at the sites. `adult`: income above 50,000 by occupation, 14 sites
of 33 to 1,052 people of 8,000 drawn. All begin with a published model of another task (characters of three other
alphabets; whether somebody is married); `--scratch` without. Sites take 10 steps of 32 samples in each of 15 rounds,
momentum SGD at 0.05; of `gradients` as many rounds as the others have steps. `pooled` sees as many samples as all sites
together in all rounds, `alone` as many as the site.
"""

import argparse
import os
import time
from typing import Any

import attrs
import numpy as np
import torch
from places import DATA
from torch import Tensor
from torch.nn import functional

from crosstask import Budget, ModelSpec, Task, TaskDescriptor, TransferEngine
from crosstask.tasks import Portfolio
from crosstask_federation import split_by_groups

RATE, STEPS = 0.05, 10
FORMS: dict[str, tuple[Any, int]] = {
    "fedavg": ("fedavg", 1),
    "fedprox, mu 0.1": ({"use": "fedavg", "mu": 0.1}, 1),
    "fedavg, momentum 0.5": ({"use": "fedavg", "server_momentum": 0.5}, 1),
    "fedavg, heads stay": ({"use": "fedavg", "keep": ["head"]}, 1),
    "fed_reptile": ({"use": "fed_reptile", "adapt_rate": 0.05}, 1),
    "per_fedavg": ({"use": "per_fedavg", "adapt_steps": 5}, 1),
    "gradients, sum": ({"use": "gradients", "learning_rate": 0.1, "momentum": 0.9}, STEPS),
    "gradients, pcgrad": ({"use": "gradients", "learning_rate": 0.1, "momentum": 0.9, "balancer": "pcgrad"}, STEPS),
    "statistics": ("statistics", 0),
}
"""What is shared -> the federation, and its rounds in those of the others (0: one round)."""


def task(name: str, outputs: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Task:
    """A classification task."""
    shape = tuple(train[0].shape[1:])
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs), train=train, test=test)


def omniglot(alphabets: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(images [N, 1, 14, 14], character, alphabet, drawer from 1) of these alphabets."""
    raw = np.load(DATA / "omniglot28.npz")
    own = np.isin(raw["alphabet"], alphabets)
    images = torch.tensor(raw["images"][own], dtype=torch.float32)[:, None] / 255
    names = raw["alphabet"][own].astype(int) * 1000 + raw["character"][own]
    labels = torch.tensor(np.unique(names, return_inverse=True)[1])
    found = functional.interpolate(images, (14, 14), mode="area")
    return found, labels, *(torch.tensor(raw[n][own].astype(int)) for n in ("alphabet", "drawer"))


def published_characters() -> Task:
    """Characters of three alphabets that no site has."""
    images, labels, _, drawer = omniglot([20, 21, 22])
    learned = drawer - drawer.min() < 15
    count = int(labels.max()) + 1
    return task("published", count, (images[learned], labels[learned]), (images[~learned], labels[~learned]))


def drawers() -> list[Task]:
    """Five sites of four drawers each."""
    images, labels, _, drawer = omniglot([3, 5])
    chosen = labels < 40
    images, labels, drawer = images[chosen], labels[chosen], drawer[chosen] - drawer.min()
    tested = drawer % 4 == 3
    groups = {"train": (drawer[~tested] // 4).tolist(), "test": (drawer[tested] // 4).tolist()}
    whole = task("characters", 40, (images[~tested], labels[~tested]), (images[tested], labels[tested]))
    return [*split_by_groups(whole, groups), published_characters()]


def alphabets() -> list[Task]:
    """Six sites of an alphabet each."""
    made = []
    for number in range(6, 12):
        images, labels, _, drawer = omniglot([number])
        learned = drawer - drawer.min() < 15
        count = int(labels.max()) + 1
        parts = (images[learned], labels[learned]), (images[~learned], labels[~learned])
        made.append(task(f"alphabet {number}", count, *parts))
    return [*made, published_characters()]


def adult() -> list[Task]:
    """Sites by occupation."""
    raw = np.load(DATA / "adult_32561_16281.npz", allow_pickle=False)
    names = [str(each) for each in raw["cat_names"]]
    place, married = (
        names.index("occupation"),
        names.index("marital_status" if "marital_status" in names else "marital-status"),
    )
    order = np.random.default_rng(0).permutation(len(raw["y_train"]))[:8000]
    tests = np.random.default_rng(1).permutation(len(raw["y_test"]))[:8000]
    sizes = [int(raw["cat_train"][:, at].max()) + 1 for at in range(len(names))]
    mean, spread = raw["num_train"].mean(0), raw["num_train"].std(0)

    def part(split: str, rows: Any) -> tuple[Tensor, Tensor, list[str], Tensor]:
        codes = torch.tensor(raw[f"cat_{split}"][rows].astype(int))
        hot = [
            functional.one_hot(codes[:, at].clamp(0, sizes[at] - 1), sizes[at])
            for at in range(len(names))
            if at != married
        ]
        numbers = torch.tensor((raw[f"num_{split}"][rows] - mean) / spread)
        inputs = torch.cat([*hot, numbers], 1).float()
        common = int(np.bincount(raw["cat_train"][:, married].astype(int)).argmax())
        return (
            inputs,
            torch.tensor(raw[f"y_{split}"][rows]).long(),
            codes[:, place].tolist(),
            (codes[:, married] == common).long(),
        )

    train, test = part("train", order), part("test", tests)
    whole = task("income", 2, train[:2], test[:2])
    sites = split_by_groups(whole, {"train": train[2], "test": test[2]}, least=20)
    other = np.setdiff1d(np.arange(len(raw["y_train"])), order)[:5000]
    own = part("train", other)
    return [*sites, task("published", 2, (own[0][:4000], own[3][:4000]), (own[0][4000:], own[3][4000:]))]


WORLDS: dict[str, Any] = {"drawers": drawers, "adult": adult, "alphabets": alphabets}
LEFT_OUT = {"alphabets": set(FORMS) - {"fedavg, heads stay"}}
"""Sites of other classes can only share what is not the head."""


def shown(interval: Any) -> str:
    """A mean with half of its 95 % interval, in per cent."""
    return "–" if interval is None else f"{100 * interval.mean:.1f} ± {100 * (interval.high - interval.low) / 2:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scratch", action="store_true", help="sites begin with a drawn network")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(steps=STEPS, batch_size=32, learning_rate=RATE, optimizer="sgd")
    source = None if wanted.scratch else "published"
    start = source or "a drawn network"
    print(f"{wanted.seeds} seeds, {wanted.rounds} rounds, begun with {start}; load before: {os.getloadavg()}")
    print("| world | what is shared | accuracy, % | worst site, % | MB sent | rounds | CPU s a seed |")
    print("|---|---|---|---|---|---|---|")
    for world in wanted.worlds:
        tasks = WORLDS[world]()
        tasks = tasks[:-1] if source is None else tasks
        kind = ModelSpec(hidden=(64,)) if world == "adult" else ModelSpec(kind="conv", hidden=(16, 32))
        with TransferEngine(
            model=kind, seeds=wanted.seeds, discoverers=[], seed=0,
            train=Budget(steps=600, batch_size=64, learning_rate=2e-3),
        ) as engine:  # fmt: skip
            engine.register(Portfolio(tasks))
            if source is not None:
                engine.train([source])
            forms = [name for name in wanted.forms if name not in LEFT_OUT.get(world, ())]
            for number, name in enumerate(forms):
                use, factor = FORMS[name]
                rounds = max(1, wanted.rounds * factor)
                begun = time.process_time()
                done = engine.run_stage(
                    "federated", federation=use, source=source, rounds=rounds, evaluate_every=rounds, yardsticks=False,
                    budget=budget if factor != STEPS else attrs.evolve(budget, steps=1), save_every=10_000,
                ).record  # fmt: skip
                spent = (time.process_time() - begun) / wanted.seeds
                if number == 0:
                    both = engine.run_stage(
                        "federated", federation=FORMS[forms[0]][0], source=source, rounds=wanted.rounds, budget=budget,
                        evaluate_every=wanted.rounds, save_every=10_000,
                    ).record  # fmt: skip
                    for what in ("pooled", "alone"):
                        worst = min((i.mean for i in getattr(both, f"{what}_scores").values()), default=None)
                        told = "–" if worst is None else f"{100 * worst:.1f}"
                        print(f"| {world} | {what} | {shown(getattr(both, what))} | {told} | – | – | |", flush=True)
                worst = min(each.mean for each in done.scores.values())
                print(f"| {world} | {name} | {shown(done.score)} | {100 * worst:.1f} | {done.sent / 1e6:.2f} "
                      f"| {rounds} | {spent:.1f} |", flush=True)  # fmt: skip
    print(f"load after: {os.getloadavg()}")


if __name__ == "__main__":
    main()
