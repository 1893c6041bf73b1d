"""Transfer matrices made by a known rule, with estimates as estimators give them."""

from __future__ import annotations

import numpy as np

from crosstask_gnn.pairs import Array


def world(tasks: int, seed: int = 0, estimators: int = 8) -> tuple[Array, Array, Array]:
    """(truth [n, n], estimates [k, n, n], features of the tasks [n, 12]).

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


def part(truth: Array, share: float, seed: int = 0) -> Array:
    """The truth with only a share of the pairs known, chosen at random."""
    known = np.full_like(truth, np.nan)
    places = np.random.default_rng(seed).permutation(np.argwhere(~np.eye(len(truth), dtype=bool)))
    chosen = tuple(places[: round(share * len(places))].T)
    known[chosen] = truth[chosen]
    return known


def within(guess: Array, truth: Array, known: Array) -> float:
    """Mean over targets of Spearman's correlation among the sources that were not measured."""
    found = []
    for column in range(len(truth)):
        hidden = np.isnan(known[:, column]) & (np.arange(len(truth)) != column)
        if hidden.any() and truth[hidden, column].std() > 0.06:
            ranks = [np.argsort(np.argsort(values[hidden, column])) for values in (guess, truth)]
            found.append(np.corrcoef(*ranks)[0, 1])
    return float(np.mean(found))
