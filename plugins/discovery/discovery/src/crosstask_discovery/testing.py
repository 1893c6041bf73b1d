"""What the tests of discoverers share: labelled features, tasks on real digits, transfer matrices made by a known rule.

The digits are scikit-learn's, which these tests need.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import fit
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task

Array = NDArray[Any]

TRAINING = 400
"""Of the images, those to train on; the others are for validation."""


def labelled(
    samples: int = 60, width: int = 7, classes: int = 3, noise: float = 1.0, seed: int = 0
) -> tuple[Array, Array]:
    """Features [N, D] in which the classes lie apart, the more so the smaller the noise, and labels [N]; every class
    occurs.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(samples) % classes)
    return rng.normal(size=(classes, width))[labels] + noise * rng.normal(size=(samples, width)), labels


# --- Tasks on digits


@cache
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """600 images of digits [N, 1, 8, 8] in [0, 1], and which digit each is [N]."""
    from sklearn.datasets import load_digits  # deferred: only tests have it

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))[:600]
    return torch.tensor(raw.images[order] / 16, dtype=torch.float32)[:, None], torch.tensor(raw.target[order])


def digit_task(
    name: str, labels: torch.Tensor, inputs: torch.Tensor | None = None, *, learned: bool = True, **descriptor: Any
) -> Task:
    """A task with these labels [600] on the images, or on `inputs`; with a model that has learned it, if so wanted."""
    given = images()[0] if inputs is None else inputs
    about = {"input_shape": (1, 8, 8), "output_dim": int(labels.max()) + 1, **descriptor}
    made = Task(
        descriptor=TaskDescriptor(task_id=name, **about),
        train=(given[:TRAINING], labels[:TRAINING]),
        validation=(given[TRAINING:], labels[TRAINING:]),
    )
    if learned:
        made.model = ModelSpec(hidden=(32, 24)).build(made.descriptor, seed=0)
        budget = Budget(steps=200, learning_rate=1e-2)
        fit(made.model, made, budget, torch.Generator().manual_seed(0), curve_split=None)
    return made


@cache
def _learned(name: str) -> Task:
    pictures, truth = images()
    noise = truth[torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))]
    labels = {"ten": truth, "parity": truth % 2, "low": truth.clamp_max(5), "turned": truth, "noise": noise}
    return digit_task(name, labels[name], pictures.rot90(dims=(2, 3)) if name == "turned" else None)


def digits(*names: str) -> Portfolio:
    """Tasks on digits with models that have learned them: which digit (`ten`), whether it is odd (`parity`), which of
    the low ones (`low`), turned images (`turned`) and shuffled labels (`noise`); all of them, if none are named.
    """
    return Portfolio(copy.deepcopy([_learned(name) for name in names or ("ten", "parity", "low", "turned", "noise")]))


def graph_of(portfolio: Portfolio, **edges: float) -> TransferGraph:
    """A graph of the portfolio's tasks with these coefficients: `ten_to_low=0.4`. None: a graph without edges."""
    graph = TransferGraph(task.descriptor for task in portfolio)
    for pair, coefficient in edges.items():
        source, target = pair.split("_to_")
        graph.add(TransferEdge(source=source, target=target, transfer_coefficient=coefficient))
    return graph


# --- Transfer matrices


def transfer_world(tasks: int, seed: int = 0, estimators: int = 8) -> tuple[Array, Array, Array]:
    """(truth [n, n], estimates [k, n, n], features of the tasks [n, 12]); row: source, column: target.

    A source helps by how near what it knows is to what the target needs, and by its own quality; targets differ in
    how much there is to gain and how much depends on the source; one in ten cannot be helped. Estimators see this
    through noise that they share, noise and a bias for sources of their own, and a monotone scale that differs by
    target: inside a target their mean correlates by about 0.7 with the truth, between targets it says nothing.
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 4, tasks)
    knows = rng.normal(size=(4, 4))[group] + 0.5 * rng.normal(size=(tasks, 4))
    needs = knows + 0.4 * rng.normal(size=(tasks, 4))
    near = np.exp(-((knows[:, None] - needs[None]) ** 2).sum(2) / 6) + 0.06 * rng.normal(size=(tasks, 1))
    near = (near - near.mean()) / near.std()
    hard, depends = 0.5 * rng.normal(size=tasks), np.exp(0.4 * rng.normal(size=tasks))
    hopeless = rng.random(tasks) < 0.1
    hard[hopeless], depends[hopeless] = -0.1, 0.03
    truth = np.tanh(0.35 * hard + 0.3 * depends * near) + 0.05 * rng.normal(size=near.shape)
    shared, estimates = rng.normal(size=near.shape), []
    for number in range(estimators):
        noise = 0.6 * shared + 0.8 * rng.normal(size=near.shape)
        raw = near + 0.8 * noise + 0.4 * rng.normal(size=(tasks, 1))
        curve = (np.tanh, np.cbrt, lambda x: np.exp(x / 2), lambda x: x)[number % 4]
        estimates.append(np.exp(0.5 * rng.normal(size=tasks)) * curve(raw) + 2 * rng.normal(size=tasks))
    features = np.hstack([knows @ rng.normal(size=(4, 6)), depends[:, None], hard[:, None], np.zeros((tasks, 4))])
    return np.clip(truth, -1, 1), np.stack(estimates), features + rng.normal(size=features.shape)


def part_of(truth: Array, share: float, seed: int = 0) -> Array:
    """The truth with only a share of the pairs known, chosen at random; the others are NaN."""
    known = np.full_like(truth, np.nan)
    places = np.random.default_rng(seed).permutation(np.argwhere(~np.eye(len(truth), dtype=bool)))
    chosen = tuple(places[: round(share * len(places))].T)
    known[chosen] = truth[chosen]
    return known


def rank_correlation(guess: Array, truth: Array, known: Array) -> float:
    """Mean over targets of Spearman's correlation among the sources that were not measured (NaN in `known`)."""
    found = []
    for column in range(len(truth)):
        hidden = np.isnan(known[:, column]) & (np.arange(len(truth)) != column)
        if hidden.any() and truth[hidden, column].std() > 0.06:
            ours, theirs = (np.argsort(np.argsort(v[hidden, column])).astype(np.float64) for v in (guess, truth))
            found.append(np.corrcoef(ours, theirs)[0, 1])
    return float(np.mean(found))
