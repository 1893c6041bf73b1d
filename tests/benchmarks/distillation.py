"""What distilled knowledge is worth on a task it was not distilled from: python tests/benchmarks/distillation.py

Digit tasks with trained models (MLP 64-64). Each of six is held out in turn, with the tasks that share its labels
hidden as well; from the others a representation, a prior and a strategy are distilled. Then new models of the held-out
task are trained on few samples: plain, with each kind of knowledge (rate 1), and from the trunk of one of the other
tasks (another with each seed). Test accuracy, means over seeds; 95 % intervals by bootstrap over tasks and seeds.
"""

import argparse
import time

import numpy as np
import torch

from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model, receive
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask_distillers import Representation, Strategy, WeightPrior, train_with

HELD = {"prime": ("parity",), "loop": (), "above_four": ("low", "high"), "blurred": (), "rotated": (), "inverted": ()}
BUDGET = Budget(steps=60, samples=40)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    tasks: dict[str, Task] = {}
    for task in Registry.installed().create("source", "digits").load():  # type: ignore[attr-defined]
        if task.task_id in ("shuffled", "permuted"):
            continue
        task.model = ModelSpec().build(task.descriptor, seed=len(tasks))
        budget = Budget(steps=150, learning_rate=3e-3)
        fit(task.model, task, budget, torch.Generator().manual_seed(0), curve_split=None)
        tasks[task.task_id] = task
    names = ("plain", "representation", "prior", "strategy", "random source")
    scores = np.zeros((len(HELD), len(names), len(seeds)))
    for place, (held, hidden) in enumerate(HELD.items()):
        target = tasks[held]
        others = [t for name, t in tasks.items() if name not in (held, *hidden)]
        makers = {
            "representation": Representation(held_out=0), "prior": WeightPrior(held_out=0),
            "strategy": Strategy(budget=BUDGET),
        }  # fmt: skip
        started = time.process_time()
        known = {name: maker.distill(others, None) for name, maker in makers.items()}
        spent = time.process_time() - started
        for seed in seeds:
            lesson = drawn(target, BUDGET.samples, seed)

            def score(model: torch.nn.Module, lesson: Task = lesson, seed: int = seed, held: str = held) -> float:
                generator = torch.Generator().manual_seed(seed)
                if hasattr(model, "training_strategy"):
                    train_with(model, lesson, BUDGET, generator)
                else:
                    fit(model, lesson, BUDGET, generator, curve_split=None)
                return evaluate(model, tasks[held])

            assert target.model is not None
            plain = fresh_model(target.model, target, seed)
            given = [makers[name].apply(plain, known[name], 1.0) for name in names[1:4]]
            one = others[seed % len(others)].model
            assert one is not None
            given.append(receive(one, lesson, seed, keep_head=False)[0])
            scores[place, 1:, seed] = [score(model) for model in given]
            scores[place, 0, seed] = score(plain)
        row = ", ".join(f"{n} {s:.3f}" for n, s in zip(names, scores[place].mean(1), strict=True))
        print(f"{held}: {row}; distilled in {spent:.0f} CPU seconds", flush=True)
    rng = np.random.default_rng(0)
    print("| knowledge | accuracy | gain, points [95 %] |\n|---|---|---|")
    for number, name in enumerate(names):
        gains = 100 * (scores[:, number] - scores[:, 0])
        draws = [
            gains[rng.integers(len(HELD), size=len(HELD))][:, rng.integers(len(seeds), size=len(seeds))].mean()
            for _ in range(2000)
        ]
        low, high = np.quantile(draws, (0.025, 0.975))
        print(f"| {name} | {scores[:, number].mean():.3f} | {gains.mean():+.1f} [{low:+.1f}, {high:+.1f}] |")


if __name__ == "__main__":
    main()
