"""Gradients of several losses with respect to shared parameters, computed no sooner and no further than asked.

All of it is exact; a balancer that only looks at losses costs one backward pass.
"""

from crosstask.learning.gradients.base import MatrixGradients, TaskGradients
from crosstask.learning.gradients.batches import AccumulatedLosses
from crosstask.learning.gradients.checks import GradientOverflowError
from crosstask.learning.gradients.collective import Group
from crosstask.learning.gradients.conflicts import ConflictMonitor, conflict_metrics
from crosstask.learning.gradients.engine import LossGradients, Mode, gradients_of, write_gradients
from crosstask.learning.gradients.graph import shared_leaves

__all__ = [
    "AccumulatedLosses",
    "ConflictMonitor",
    "GradientOverflowError",
    "Group",
    "LossGradients",
    "MatrixGradients",
    "Mode",
    "TaskGradients",
    "conflict_metrics",
    "gradients_of",
    "shared_leaves",
    "write_gradients",
]
