"""What a tracker costs a training, beside the same training without one.

    OMP_NUM_THREADS=1 python tests/benchmarks/trackers.py [--quick]

Steps of a small joint training (three tasks of digits, RGB, batches of 32) tell a run's observers of themselves. The
ways take turns in rounds of ROUND steps, in an order drawn anew for each, so that whatever else the machine does hits
all alike. `training` is CPU time of the training's own thread for a step, `all threads` that of the process, the
tracker's writing included; medians over rounds, and the median of the ratios to the round without a tracker. `telling`
is the thread's CPU time of one step's telling alone, over TOLD steps. wandb's own process is not counted.
"""

import argparse
import importlib
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from crosstask import Budget, Registry
from crosstask.run import Run
from crosstask_digits import Digits
from crosstask_multitask.trainer import MultiTaskTrainer
from crosstask_rgb import RGB

ROUND, TOLD = 25, 2000
TRACKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "jsonl": ("crosstask_trackers:Jsonl", {"path": "{folder}/x.jsonl"}),
    "tensorboard": ("crosstask_tensorboard:TensorBoard", {"folder": "{folder}"}),
    "mlflow": ("crosstask_mlflow:MLflow", {"tracking_uri": "sqlite:///{folder}/mlflow.db"}),
    "wandb": ("crosstask_wandb:Wandb", {"mode": "offline", "folder": "{folder}"}),
}


def trackers(folder: str) -> dict[str, Any]:
    """None, and each tracker with every step and with one in ten."""
    made: dict[str, Any] = {"none": None}
    for name, (code, options) in TRACKERS.items():
        module, _, cls = code.partition(":")
        for every in (10, 1):
            place = f"{folder}/{name}{every}"
            Path(place).mkdir()
            filled = {key: value.format(folder=place) for key, value in options.items()}
            made[f"{name}, every {every}"] = getattr(importlib.import_module(module), cls)(every=every, **filled)
    return made


def trainer(observer: Any) -> MultiTaskTrainer:
    run = Run(Registry.installed(), observers=[] if observer is None else [observer])
    tasks = list(Digits(tasks=("digits", "parity", "high")).load())
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
    module = run.component("sharing", "hard_parameter_sharing").build(tasks, trunk)  # type: ignore[attr-defined]
    return MultiTaskTrainer(module, tasks, RGB(), Budget(steps=10**9, batch_size=32), run)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="12 rounds instead of 60")
    rounds = 12 if parser.parse_args().quick else 60
    torch.set_num_threads(1)
    order = random.Random(0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ways = {name: (observer, trainer(observer)) for name, observer in trackers(folder).items()}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name in order.sample(list(ways), len(ways)):
                made = ways[name][1]
                own, every = time.thread_time(), time.process_time()
                for _ in range(ROUND):
                    made.step(made.done + 1)
                figures = (time.thread_time() - own, time.process_time() - every)
                if number:  # the first opens databases and processes
                    taken[name].append((1e3 * figures[0] / ROUND, 1e3 * figures[1] / ROUND))
        print(f"python {platform.python_version()}, torch {torch.__version__}, {rounds} rounds of {ROUND} steps")
        print("| tracker | training, ms a step | ratio | all threads, ms a step | ratio | telling, us a step |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, figures_of in taken.items():
            own, every = (statistics.median(column) for column in zip(*figures_of, strict=True))
            pairs = list(zip(figures_of, taken["none"], strict=True))
            more, all_more = (statistics.median(f[at] / n[at] for f, n in pairs) for at in (0, 1))
            alone = telling(ways[name][1])
            print(f"| {name} | {own:.3f} | {more:.3f} | {every:.3f} | {all_more:.3f} | {alone:.1f} |", flush=True)
        for observer, _ in ways.values():
            if observer is not None:
                observer.close()


def telling(made: MultiTaskTrainer) -> float:
    """Microseconds of telling of one step, as large as the trainer's."""
    names = [task.task_id for task in made.tasks]
    metrics = {
        "losses": dict.fromkeys(names, 0.5),
        "weights": dict.fromkeys(names, 1.0),
        "conflicts": {"mean_cosine": 0.1, "conflict_share": 0.2},
    }
    started = time.thread_time()
    for step in range(made.done + 1, made.done + 1 + TOLD):
        made.context.tell("training_step", stage="multitask", step=step, metrics=metrics)
    return 1e6 * (time.thread_time() - started) / TOLD


if __name__ == "__main__":
    main()
