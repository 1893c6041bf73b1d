"""Meta-learning shown on real data in one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, UnknownComponentError
from crosstask.learning.episodes import Episodes, episode_accuracy
from crosstask.learning.modules import seeded
from crosstask_meta.faces import ANIL, MAML, MAMLFirstOrder, MetaSGD, MultiTaskMAML, Reptile
from crosstask_meta.metrics import adaptation_curve, adaptation_speed, parameter_efficiency, sample_efficiency
from crosstask_meta.samplers import EpisodeSampler, create_meta_batch, split_classes
from crosstask_meta.trainer import BaseMetaLearner

NEW = (1, 4, 6, 8)
"""The digits that meta-training never sees, in no rotation."""

WAYS = 5

SHOTS = (1, 2, 5, 10)

LEARNERS: dict[str, Callable[[nn.Module], BaseMetaLearner]] = {
    "maml": lambda model: MAML(model, 0.3, 0.003, 2),
    "maml_first_order": lambda model: MAMLFirstOrder(model, 0.3, 0.003, 2),
    "anil": lambda model: ANIL(model, 0.3, 0.003, 2),
    "meta_sgd": lambda model: MetaSGD(model, 0.3, 0.003, 2),
    "reptile": lambda model: Reptile(model, 0.1, 0.3, 8),
}


def run_meta_learning_demo(
    steps: int = 100,
    *,
    seed: int = 0,
    test_episodes: int = 200,
    omniglot: str | Path | None = None,
    echo: Callable[[str], None] | None = print,
) -> dict[str, dict[str, float]]:
    """What the meta-learners do on scikit-learn's digits, measured: figures by subject and name, also printed.

    `maml`, `maml_first_order`, `anil`, `meta_sgd`, `reptile` learn from episodes of six digits, turned by 0, 90, 180
    and 270 degrees as classes of their own, and are judged on `test_episodes` of the four others, from one image of
    each of five classes: accuracy of the start, adapted likewise, and after `steps` meta-steps; how quickly they adapt
    (`adaptation_speed`), how many times as many images the start needs (`sample_efficiency`), what part of the weights
    stays (`parameter_efficiency`). `unequal`: tasks of 3 to 8 images, padded, against each alone.
    `multi_task`: three questions about the same images, with task weights that adapt. `omniglot`: new characters, from
    a file with the arrays `images` [N, 28, 28], `alphabet`, `character` and `vinyals_split` (0 train, 2 test), if it is
    given. A learner whose package is not installed is left out. `echo=None` prints nothing.
    """
    tell = echo or (lambda line: None)
    known, new = split_classes(_turned(), [digit + 10 * turn for digit in NEW for turn in range(4)])
    found: dict[str, dict[str, float]] = {}
    for name, make in LEARNERS.items():
        try:
            found[name] = _new_digits(make, known, new, steps, seed, test_episodes)
        except UnknownComponentError as error:
            tell(f"{name}: left out, {error}")
            continue
        tell(_line(name, found[name]))
    for name, measure in (("unequal", _unequal), ("multi_task", _multi_task)):
        try:
            found[name] = measure(steps, seed)
        except UnknownComponentError as error:
            tell(f"{name}: left out, {error}")
            continue
        tell(_line(name, found[name]))
    if omniglot is not None:
        found["omniglot"] = _characters(Path(omniglot), steps, seed)
        tell(_line("omniglot", found["omniglot"]))
    return found


def _line(name: str, figures: dict[str, float]) -> str:
    return f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items())


def _digits() -> TensorData:
    try:
        from sklearn.datasets import load_digits  # deferred: only this needs it
    except ImportError as error:
        raise DataError("the demonstration learns from scikit-learn's digits: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    return TensorData(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))


def _turned() -> TensorData:
    data = _digits()
    square = data.inputs.reshape(-1, 8, 8)
    turned = torch.cat([square.rot90(turn, (1, 2)).flatten(1) for turn in range(4)])
    return TensorData(turned, torch.cat([data.targets + 10 * turn for turn in range(4)]))


def _network(outputs: int, seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, outputs))


def _accuracy(learner: BaseMetaLearner, episodes: Episodes) -> float:
    scores = learner.predict(episodes)
    return float(episode_accuracy(scores, episodes.query_targets, episodes.query_mask).mean())


def _new_digits(
    make: Callable[[nn.Module], BaseMetaLearner], known: TensorData, new: TensorData, steps: int, seed: int, count: int
) -> dict[str, float]:
    started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    tests = {shots: EpisodeSampler(new, ways=WAYS, shots=shots, queries=5).sample(count, generator) for shots in SHOTS}
    start, learner = make(_network(WAYS, seed)), make(_network(WAYS, seed))
    learner.meta_train(known, steps, batch_size=8, ways=WAYS, shots=1, queries=5, generator=generator)
    before, after = ({shots: _accuracy(one, test) for shots, test in tests.items()} for one in (start, learner))
    support = tests[1].support(0)
    adapted = learner.adapt_to_task(support.inputs, support.targets)
    return {
        "accuracy_start": before[1],
        "accuracy": after[1],
        "adaptation_speed": adaptation_speed(adaptation_curve(learner, tests[1], 10)),
        "sample_efficiency": sample_efficiency(after, before),
        "parameter_efficiency": parameter_efficiency(learner.model, adapted),
        "seconds": time.perf_counter() - started,
    }


def _unequal(steps: int, seed: int) -> dict[str, float]:
    """Episodes with three to eight support images: one padded batch, and each alone."""
    started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    data, tasks = _digits(), []
    for number in range(6):
        chosen = data.targets < 2 if number % 2 else data.targets > 7
        own = TensorData(data.inputs[chosen], data.targets[chosen])
        rows = torch.randperm(len(own), generator=generator)
        ordered = rows[own.targets[rows].argsort(stable=True)]
        rows = torch.stack([ordered[:100], ordered.flip(0)[:100]], 1).flatten()  # one class, then the other
        size = 3 + number
        support, query = rows[:size], rows[20:40]
        tasks.append((own.inputs[support], own.targets[support], own.inputs[query], own.targets[query]))
    learner = MAML(_network(2, seed), 0.1, 0.003, 2)
    alone = torch.stack([learner.predict([task])[0] for task in tasks])
    together = learner.predict(tasks)
    before = _accuracy(learner, Episodes.of(tasks))
    for _ in range(min(steps, 30)):
        learner.meta_train_step(create_meta_batch(tasks, batch_size=4, generator=generator))
    return {
        "difference": float((alone - together).abs().max()),
        "accuracy_start": before,
        "accuracy": _accuracy(learner, Episodes.of(tasks)),
        "seconds": time.perf_counter() - started,
    }


def _multi_task(steps: int, seed: int) -> dict[str, float]:
    """Is it even, is it above four, has it a closed loop: each asked of new images, after a few examples."""
    started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    data = _digits()
    loop = torch.isin(data.targets, torch.tensor([0, 6, 8, 9]))
    answers: dict[str, Tensor] = {"even": data.targets % 2 == 0, "above_four": data.targets > 4, "loop": loop}
    samplers = {
        name: EpisodeSampler((data.inputs, answer.long()), ways=2, shots=10, queries=15)
        for name, answer in answers.items()
    }
    learner = MultiTaskMAML(_network(2, seed), 0.1, 0.003, 2)
    tests = {name: sampler.sample(50, generator) for name, sampler in samplers.items()}
    before = {name: _accuracy(learner, test) for name, test in tests.items()}
    for _ in range(steps):
        learner.meta_train_step({name: next(iter(s.sample(1, generator))) for name, s in samplers.items()})
    figures: dict[str, float] = {}
    for name, test in tests.items():
        figures |= {f"{name}_start": before[name], name: _accuracy(learner, test)}
    weights = {f"weight_{name}": weight for name, weight in learner.task_weights.items()}
    return figures | weights | {"seconds": time.perf_counter() - started}


def _characters(path: Path, steps: int, seed: int) -> dict[str, float]:
    """Five new characters, from one drawing of each, by a small convolutional network."""
    started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    try:
        with np.load(path) as held:
            arrays = {name: held[name] for name in ("images", "alphabet", "character", "vinyals_split")}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"omniglot: {path} is no file of its images, alphabets, characters and splits: {error}"
        ) from None
    images = nn.functional.avg_pool2d(torch.tensor(arrays["images"])[:, None].float() / 255, 2)
    labels = torch.tensor(arrays["alphabet"].astype(int) * 1000 + arrays["character"])
    parts = [torch.tensor(arrays["vinyals_split"] == split) for split in (0, 2)]
    train, test = (EpisodeSampler((images[own], labels[own]), ways=5, shots=1, queries=5) for own in parts)
    with seeded(seed):
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.MaxPool2d(2), nn.ReLU()]
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()]
        learner = MAMLFirstOrder(nn.Sequential(*layers, nn.Linear(288, 5)), 0.2, 0.003, 2)
    fixed = test.sample(100, generator)
    before = _accuracy(learner, fixed)
    for _ in range(steps):
        learner.meta_train_step(train.sample(4, generator))
    return {"accuracy_start": before, "accuracy": _accuracy(learner, fixed), "seconds": time.perf_counter() - started}
