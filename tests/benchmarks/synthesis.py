"""Models for unseen tasks without training, by each synthesizer: python tests/benchmarks/synthesis.py [--seeds 3]

Digits, MLP 64-64, in three cases:
- *halves*: four digits, two of them from `low` and two from `high`; no source has all four.
- *question and view*: `parity`, `prime`, `loop`, `above_four` asked of images rotated, inverted, blurred or permuted;
  sources: the question upright, the ten digits upright, and the ten digits in that view.
- *two changes*: ten digits faint and blurred, faint and noisy, ...; sources: plain and with each change alone.

Each model's test accuracy as share of full training on the new task's own data; how often the 95 % interval that was
stated with the model held it, and how wide it was; the best single source for comparison (its head as it is, where it
has the classes). Means over new tasks and seeds, 95 % bootstrap intervals over new tasks.
"""

import argparse
import time
from collections import defaultdict
from typing import Any

import attrs
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, shift

from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError, DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import for_classes
from crosstask.learning.training import evaluate, fit
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Task

TRAIN = Budget(steps=250, learning_rate=3e-3)
MAKERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "weighted_ensemble": ("weighted_ensemble", {}, True),
    "distilled ensemble": ("weighted_ensemble", {"distill_steps": 300, "distill_rate": 3e-3}, True),
    "knowledge_composition": ("knowledge_composition", {}, True),
    "analogy_transfer": ("analogy_transfer", {}, True),
}
CHANGES = {
    "faint": lambda x, rng: 0.4 * x,
    "blurred": lambda x, rng: gaussian_filter(x, (0, 0, 0.7, 0.7)),
    "noisy": lambda x, rng: np.clip(x + rng.normal(0, 0.2, x.shape), 0, 1),
    "moved": lambda x, rng: shift(x, (0, 0, 1, 0), order=1),
}


def changed(task: Task, task_id: str, domain: str, **more: Any) -> Task:
    return Task(descriptor=attrs.evolve(task.descriptor, task_id=task_id, domain=domain, prerequisites=(), **more))


def halves(tasks: dict[str, Task], seed: int) -> list[tuple[Task, list[Task]]]:
    rng = np.random.default_rng(seed)
    four = sorted([*rng.choice(5, 2, replace=False), *(5 + rng.choice(5, 2, replace=False))])
    ten = tasks["digits"]
    names = tuple(str(d) for d in four)
    new = changed(ten, "mix " + " ".join(names), ten.descriptor.domain, classes=names, output_dim=4, sample_count=None)
    for split in ("train", "validation", "test"):
        data = ten.data(split)
        kept = torch.isin(data.targets, torch.tensor(four))
        setattr(new, split, (data.inputs[kept], torch.tensor([four.index(int(t)) for t in data.targets[kept]])))
    return [(new, [tasks["low"], tasks["high"]])]


def questions(tasks: dict[str, Task], seed: int) -> list[tuple[Task, list[Task]]]:
    found = []
    for view in ("rotated", "inverted", "blurred", "permuted"):
        for asked in ("parity", "prime", "loop", "above_four"):
            label_of = torch.zeros(10, dtype=torch.long)
            label_of[tasks["digits"].data("train").targets] = tasks[asked].data("train").targets
            new = changed(tasks[asked], f"{asked} {view}", tasks[view].descriptor.domain)
            for split in ("train", "validation", "test"):
                data = tasks[view].data(split)
                setattr(new, split, (data.inputs, label_of[data.targets]))
            found.append((new, [tasks["digits"], tasks[view], tasks[asked]]))
    return found[seed % 2 :: 2]


def changes(tasks: dict[str, Task], seed: int) -> list[tuple[Task, list[Task]]]:
    ten = tasks["digits"]

    def view(names: tuple[str, ...]) -> Task:
        rng = np.random.default_rng(seed)
        label = "_".join(names) or "plain"
        made = changed(ten, label, f"digits/{label}", required_skills=("digits", *names))
        for split in ("train", "validation", "test"):
            images = ten.data(split).inputs.numpy()
            for name in names:
                images = CHANGES[name](images, rng)
            setattr(made, split, (images.astype(np.float32), ten.data(split).targets))
        return made

    pairs = [("faint", "blurred"), ("faint", "noisy"), ("blurred", "moved"), ("faint", "moved")]
    return [(view(pair), [view(()), view(pair[:1]), view(pair[1:])]) for pair in pairs]


CASES = {"halves": halves, "question and view": questions, "two changes": changes}


def trained(task: Task, seed: int) -> torch.nn.Module:
    model = ModelSpec().build(task.descriptor, seed)
    fit(model, task, TRAIN, torch.Generator().manual_seed(seed), curve_split=None)
    return model


def single(new: Task, sources: list[Task]) -> float:
    """The best that any one source does as it is; chance where none has the classes."""
    able = [s for s in sources if set(new.descriptor.classes) <= set(s.descriptor.classes) and s.model is not None]
    scores = [evaluate(for_classes(s.model, s.descriptor.classes, new.descriptor.classes), new) for s in able]
    return max(scores, default=1 / len(new.descriptor.classes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = {t.task_id: t for t in Registry.installed().create("source", "digits").load()}  # type: ignore[attr-defined]
    for case in options.cases:
        shares: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        held: dict[str, list[tuple[bool, float]]] = defaultdict(list)
        seconds: dict[str, list[float]] = defaultdict(list)
        refused: dict[str, str] = {}
        for seed in range(options.seeds):
            for task in base.values():
                task.model = None
            for new, sources in CASES[case](base, seed):
                for number, task in enumerate(sources):
                    task.model = task.model or trained(task, 100 * seed + number)
                key = new.task_id if case != "halves" else f"{new.task_id} {seed}"
                full = evaluate(trained(new, seed), new)
                shares["best single source"][key].append(single(new, sources) / full)
                for name, (maker, settings, unlabelled) in MAKERS.items():
                    with TransferEngine(store=":memory:", discoverers=("skills",), seed=seed) as engine:
                        for task in sources:
                            own = Task(descriptor=attrs.evolve(task.descriptor, prerequisites=()),
                                       train=task.data("train"), validation=task.data("validation"))  # fmt: skip
                            engine.register_task(own, trained_model=task.model)
                        engine.register_task(Task(descriptor=new.descriptor), unseen=True)
                        made_by = engine.registry.create("synthesis", maker, settings)
                        inputs = new.data("train").inputs if unlabelled else None
                        started = time.process_time()
                        try:
                            model = engine.synthesize_zero_shot_model(new.task_id, made_by, inputs, expect=False)
                            seconds[name].append(time.process_time() - started)
                            model = engine.synthesize_zero_shot_model(new.task_id, made_by, inputs)
                        except DataError as error:
                            refused[name] = str(error)
                            continue
                        except CrosstaskError as error:
                            print(f"{case}: {name} on {new.task_id}: {error}")
                            continue
                    score = evaluate(model, new)
                    shares[name][key].append(score / full)
                    expected = model.provenance.expected  # type: ignore[union-attr]
                    if expected is not None:
                        inside = expected.low - 0.005 <= score <= expected.high + 0.005
                        held[name].append((inside, expected.high - expected.low))
        print(f"\n{case}\n| | % of full training | interval held it | its mean width | CPU s |\n|---|---|---|---|---|")
        rng = np.random.default_rng(0)
        for name, found in shares.items():
            means = 100 * np.array([np.mean(v) for v in found.values()])
            low, high = np.quantile([rng.choice(means, len(means)).mean() for _ in range(2000)], (0.025, 0.975))
            said = held.get(name, [])
            kept = f"{100 * np.mean([i for i, _ in said]):.0f} % of {len(said)}" if said else ""
            width = f"{np.mean([w for _, w in said]):.2f}" if said else ""
            spent = f"{np.mean(seconds[name]):.2f}" if name in seconds else ""
            print(f"| {name} | {means.mean():.1f} [{low:.1f}, {high:.1f}] | {kept} | {width} | {spent} |", flush=True)
        for name, reason in refused.items():
            print(f"{name} refused: {reason[:160]}")


if __name__ == "__main__":
    main()
