"""CKA: alignment of the features with the labels, or with the features of the target's own model."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask_discovery.arrays import Matrix, targets, view
from crosstask_discovery.estimator import Estimator, Seen


def cka(one: Any, other: Any, unbiased: bool = True) -> float:
    """Linear centred kernel alignment of two views of the same N samples, [N, D] and [N, K]: HSIC of their linear
    kernels over the geometric mean of each with itself (Kornblith et al. 2019, equations 3 and 4).

    With `unbiased`, HSIC is Song et al.'s (2012, equation 5), whose expectation is 0 for views that have nothing to do
    with one another, whatever their number of features; it needs four samples. At most 1; 0 where a view does not vary.
    """
    ours, theirs = view(one), view(other)
    if len(ours) != len(theirs):
        raise DataError(f"two views of the same samples are needed, got {len(ours)} and {len(theirs)} rows")
    if unbiased and len(ours) < 4:
        raise DataError(f"unbiased CKA needs at least four samples, got {len(ours)}")
    measure, kernels = _hsic, (ours.kernel, theirs.kernel)
    if unbiased:
        measure, kernels = _unbiased_hsic, (_hollow(ours.kernel), _hollow(theirs.kernel))
    common, own, others = measure(*kernels), measure(kernels[0], kernels[0]), measure(kernels[1], kernels[1])
    # A view whose own HSIC is at most 0 has no more structure than noise of its size.
    return float(common / np.sqrt(own * others)) if own > 0 and others > 0 else 0.0


def _hsic(ours: Matrix, theirs: Matrix) -> float:
    """HSIC of centred kernels, but for a factor that cancels."""
    return float(np.vdot(ours, theirs))


def _hollow(kernel: Matrix) -> Matrix:
    made = kernel.copy()
    np.fill_diagonal(made, 0.0)
    return made


def _unbiased_hsic(ours: Matrix, theirs: Matrix) -> float:
    """Of kernels whose diagonals are 0."""
    count, rows = len(ours), (ours.sum(axis=1), theirs.sum(axis=1))
    middle = rows[0].sum() * rows[1].sum() / ((count - 1) * (count - 2))
    return float(np.vdot(ours, theirs) + middle - 2 * (rows[0] @ rows[1]) / (count - 2))


@component
class CKA(Estimator):
    """Estimates transfer by `cka` of the source's features with the labels, or with the features that the target's own
    model has of the same samples (pairs whose target has no model are left out then).
    """

    known_as: ClassVar[str] = "cka"
    regression: ClassVar[bool] = True

    against: str = option("labels", choices=("labels", "model"), help="what the features are compared with")
    unbiased: bool = option(True, help="correct for the number of features")

    def estimate(self, seen: Seen) -> float:
        if self.against == "model":
            if seen.target.model is None:
                raise DataError(f"task {seen.target.task_id!r} has no trained model to compare features with")
            return cka(seen.view, self.see(seen.target, seen.target).view, self.unbiased)
        return cka(seen.view, targets(seen.targets, len(seen.features))[0], self.unbiased)
