"""kNN: how often a sample's nearest neighbours in feature space have its label."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component, option
from crosstask_discovery.arrays import targets, view
from crosstask_discovery.estimator import Estimator, Seen


def knn(features: Any, labels: Any, neighbours: int = 3) -> float:
    """The share of the nearest neighbours (Euclidean, of the other samples) of features [N, D] that have the sample's
    label [N], the mean over samples. For regression targets [N, K]: the coefficient of determination of their mean.

    Between 0 and 1 for labels; 0 for a single class, a single sample or targets that do not vary. Neighbours at the
    same distance as the last one count in proportion.
    """
    looked = view(features)
    wanted, classes = targets(labels, len(looked))
    if len(looked) < 2 or (wanted == wanted[0]).all():
        return 0.0
    count = min(neighbours, len(looked) - 1)
    lengths = looked.kernel.diagonal()
    distances = np.maximum(lengths[:, None] + lengths - 2 * looked.kernel, 0.0)
    np.fill_diagonal(distances, np.inf)
    last = np.partition(distances, count - 1, axis=1)[:, count - 1 : count]
    slack = 1e-12 * lengths.max()  # rounding of the distances
    nearer = distances < last - slack
    tied = ~nearer & (distances <= last + slack)
    share = (count - nearer.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
    guesses = (nearer + tied * share) @ wanted / count
    if classes:
        return float((guesses * wanted).sum(axis=1).mean())
    varying = wanted.std(axis=0) > 0
    errors = ((guesses - wanted)[:, varying] ** 2).mean(axis=0) / wanted[:, varying].var(axis=0)
    return float(1 - errors.mean())


@component
class KNN(Estimator):
    """Estimates transfer by `knn`. For classification and regression."""

    known_as: ClassVar[str] = "knn"
    regression: ClassVar[bool] = True

    neighbours: int = option(3, ge=1, help="how many neighbours")

    def estimate(self, seen: Seen) -> float:
        return knn(seen.view, seen.targets, self.neighbours)
