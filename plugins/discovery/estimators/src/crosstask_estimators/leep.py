"""LEEP: the log-likelihood of the labels through the classes that the source knows."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.errors import DataError
from crosstask.options import component
from crosstask_discovery.arrays import Matrix, class_numbers, matrix, one_hot
from crosstask_discovery.estimator import Estimator, Seen


def leep(probabilities: Any, labels: Any) -> float:
    """LEEP of the source's class probabilities [N, Z] and labels [N] (Nguyen et al. 2020, equations 1 and 2): the mean
    of log Σ_z P(label | z) θ_z. At most 0, which is best; 0 for a single class too.

    DataError where a row of probabilities is negative or does not sum to 1.
    """
    theta = matrix(probabilities, "probabilities")
    if (theta < 0).any() or np.abs(theta.sum(axis=1) - 1).max() > 1e-4:
        raise DataError("probabilities must be at least 0 and sum to 1 in every row")
    theta = theta / theta.sum(axis=1, keepdims=True)  # float32 rows sum to 1 but for rounding
    numbers = class_numbers(labels, len(theta))
    joint = one_hot(numbers).T @ theta  # [C, Z]; N cancels
    seen = joint.sum(axis=0)
    given = np.divide(joint, seen, out=np.zeros_like(joint), where=seen > 0)
    return float(np.log((given[numbers] * theta).sum(axis=1)).mean())


def softmax(outputs: Any) -> Matrix:
    """Probabilities [N, Z] of logits [N, Z]."""
    logits = matrix(outputs, "outputs")
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@component
class LEEP(Estimator):
    """Estimates transfer by `leep` on the softmax of the source's outputs. The source must be a classification task (of
    samples, or of places where the target labels those).
    """

    known_as: ClassVar[str] = "leep"
    source_classes: ClassVar[bool] = True

    def estimate(self, seen: Seen) -> float:
        return leep(softmax(seen.logits), seen.targets)
