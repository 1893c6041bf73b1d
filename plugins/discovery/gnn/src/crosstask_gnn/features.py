"""What a task is, as numbers: from its descriptor, its data and its model. Never from its name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.modules import Headless
from crosstask.learning.training import predict
from crosstask.logs import logger
from crosstask.tasks import Portfolio, Task
from crosstask_gnn.pairs import Array

WORDS = 24
"""Places that the words of a descriptor are hashed to."""


def task_features(tasks: Sequence[Task], portfolio: Portfolio, seed: int = 0) -> Array:
    """[n, d] of `tasks`. Data and models of tasks that the portfolio holds back as unseen are not looked at."""
    descriptors = np.stack([descriptor_features(task.descriptor) for task in tasks])
    seen = [task if task.task_id in portfolio else None for task in tasks]
    data = _filled([None if task is None else data_features(task) for task in seen])
    return np.hstack([descriptors, data, model_features(seen, seed)])


def descriptor_features(task: TaskDescriptor) -> Array:
    """[d]: type, skills, knowledge, classes and the steps of the domain hashed (each kind of equal weight), logarithms
    of the dimensions and of the number of samples with whether they are known, complexity.
    """
    path = task.domain.split("/")
    kinds = {
        "type": [task.task_type],
        "skill": task.required_skills,
        "knowledge": task.domain_knowledge,
        "class": task.classes,
        "domain": ["/".join(path[: depth + 1]) for depth in range(len(path))],
    }
    words = np.zeros(WORDS)
    for kind, names in kinds.items():
        words += _hashed(f"{kind}:{name}" for name in names) / math.sqrt(max(1, len(names)))
    numbers = [task.input_dim, task.output_dim, task.sample_count]
    sizes = [math.log1p(number) if number is not None else 0.0 for number in numbers]
    known = [float(number is not None) for number in numbers]
    return np.array([*words, *sizes, *known, float(len(task.input_shape)), task.complexity])


def _hashed(words: Iterable[str]) -> Array:
    """Signed feature hashing (Weinberger et al. 2009, section 2), the same in every process."""
    total = np.zeros(WORDS)
    for word in words:
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        total[number % WORDS] += 1.0 if number >> 63 else -1.0
    return total


def data_features(task: Task, samples: int = 256) -> Array | None:
    """[8] of training data: entropy of the labels and its distance from even; mean, deviation, skewness and share of
    zeros of the inputs; participation ratio of their principal components; share of their variance between classes.
    """
    if not task.has_data():
        return None
    data = task.data("train").head(samples)
    several = isinstance(data.inputs, MultiInput)
    inputs = data.inputs.flatten(1) if several else data.inputs.reshape(len(data), -1)
    inputs = inputs.double().cpu()[:, :4096]
    spread = inputs - inputs.mean(0)
    total = float(spread.square().sum())
    gram = spread @ spread.T
    rank = total**2 / float(gram.square().sum()) if total > 0 else 0.0
    entropy = even = between = 0.0
    if task.descriptor.task_type == "classification":
        labels = data.targets.cpu()
        counts = torch.bincount(labels).double()
        shares = counts[counts > 0] / len(labels)
        entropy = float(-(shares * shares.log()).sum())
        even = math.log(len(counts)) - entropy
        means = torch.zeros(len(counts), inputs.shape[1], dtype=torch.float64).index_add_(0, labels, spread)
        between = float((means.square().sum(1) / counts.clamp_min(1)).sum()) / total if total > 0 else 0.0
    deviation = float(inputs.std())
    skew = float(((inputs - inputs.mean()) ** 3).mean()) / deviation**3 if deviation > 1e-9 else 0.0
    zeros = float((inputs == 0).double().mean())
    return np.array([entropy, even, float(inputs.mean()), deviation, skew, zeros, math.log1p(rank), between])


def model_features(tasks: Sequence[Task | None], seed: int, inputs: int = 96, size: int = 8) -> Array:
    """[n, size]: where a model's features place it among the others, and whether it has any.

    The trunks of all models for one input shape see the same inputs, some of each task; models whose features make
    the same inputs alike are near one another (principal coordinates of the linear CKA, Kornblith et al. 2019,
    equation 4). Any architecture will do. Zero for a task without model, and where it is the only one of its shape.
    """
    found = np.zeros((len(tasks), size + 1))
    shapes: dict[Any, list[int]] = {}
    for number, task in enumerate(tasks):
        if task is not None and task.has_data():
            shapes.setdefault(kind_of(task.data("train").inputs), []).append(number)
    for numbers in shapes.values():
        own = [task for number in numbers if (task := tasks[number]) is not None]
        generator = torch.Generator().manual_seed(seed)
        pool = joined([task.data("train").head(max(2, inputs // len(own))).inputs for task in own])
        pool = pool[torch.randperm(len(pool), generator=generator)[:inputs]]
        grams = {number: gram for number in numbers if (gram := _gram(tasks[number], pool)) is not None}
        if len(grams) < 2:
            continue
        rows = np.stack(list(grams.values()))
        likeness = rows @ rows.T
        centred = likeness - likeness.mean(0) - likeness.mean(1)[:, None] + likeness.mean()
        values, vectors = np.linalg.eigh(centred)
        largest = np.argsort(values)[::-1][:size]
        places = vectors[:, largest] * np.sqrt(np.maximum(values[largest], 0))
        places *= np.where(places[np.abs(places).argmax(0), np.arange(len(largest))] < 0, -1, 1)  # one sign for all
        found[list(grams), : len(largest)] = places
        found[list(grams), size] = 1.0
    return found


def _gram(task: Task | None, inputs: torch.Tensor | MultiInput) -> Array | None:
    """Inner products of centred features [N * N], of length one; None without a model that has any."""
    if task is None or task.model is None:
        return None
    try:
        features = predict(Headless(task.model), inputs).reshape(len(inputs), -1).double()
    except Exception as error:  # no head to take off, or the user's own code raises
        logger().info("model left out", discoverer="gnn", task=task.task_id, reason=str(error))
        return None
    features = features - features.mean(0)
    gram = (features @ features.T).flatten()
    length = float(gram.norm())
    return (gram / length).cpu().numpy() if math.isfinite(length) and length > 0 else None


def _filled(rows: Sequence[Array | None]) -> Array:
    """Rows with the column means where there is none, and whether there was one."""
    known = [row for row in rows if row is not None]
    if not known:
        return np.zeros((len(rows), 0))
    mean = np.mean(known, axis=0)
    return np.stack([np.append(mean if row is None else row, row is not None) for row in rows])
