"""NCE: negative conditional entropy of the labels given the class that the source predicts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component
from crosstask_discovery.arrays import class_numbers, matrix, one_hot
from crosstask_discovery.estimator import Estimator, Seen


def nce(predicted: Any, labels: Any) -> float:
    """-H(label | predicted source class) in nats, of integers [N] and [N] (Tran et al. 2019, equation 3).

    At most 0, which means that the source's class determines the label.
    """
    count = len(predicted)
    ours, theirs = class_numbers(labels, count), class_numbers(predicted, count)
    joint = one_hot(ours).T @ one_hot(theirs) / count
    logs = np.log(np.divide(joint, joint.sum(axis=0), out=np.ones_like(joint), where=joint > 0))
    return float((joint * logs).sum())


@component
class NCE(Estimator):
    """Estimates transfer by `nce` with the source's most likely class. The source must be a classification task."""

    known_as: ClassVar[str] = "nce"
    source_classes: ClassVar[bool] = True

    def estimate(self, seen: Seen) -> float:
        return nce(matrix(seen.logits, "outputs").argmax(axis=1), seen.targets)
