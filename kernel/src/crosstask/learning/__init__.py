"""What every torch plugin needs, once: training, evaluation, task gradients, module surgery, learning curves."""

from crosstask.learning.data import batches
from crosstask.learning.gradients import ConflictMonitor, TaskGradients, conflict_metrics, gradients_of
from crosstask.learning.metrics import confidence_interval, relative_gain
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import (
    Headless,
    frozen,
    head_name,
    head_of,
    load_matching,
    replace_head,
    seeded,
    trunk_parameters,
)
from crosstask.learning.objectives import loss_of, metric_of
from crosstask.learning.training import History, evaluate, fit, predict
from crosstask.reading import read_split

__all__ = [
    "ConflictMonitor",
    "Headless",
    "History",
    "ModelSpec",
    "TaskGradients",
    "batches",
    "confidence_interval",
    "conflict_metrics",
    "evaluate",
    "fit",
    "frozen",
    "gradients_of",
    "head_name",
    "head_of",
    "load_matching",
    "loss_of",
    "metric_of",
    "predict",
    "read_split",
    "relative_gain",
    "replace_head",
    "seeded",
    "trunk_parameters",
]
