"""Objectives of a model as losses with names: aggregation, schedules of weights, training with any balancer."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Given": "given",
    "LossAggregator": "aggregator",
    "Losses": "stage",
    "LossesResult": "records",
    "Objective": "contract",
    "ObjectiveTrainer": "trainer",
    "Output": "given",
    "Quantized": "quantizer",
    "TaskLosses": "aggregator",
    "VectorQuantizer": "quantizer",
    "WeightSchedule": "schedules",
    "balancing_demo": "demo",
    "constant": "schedules",
    "cosine": "schedules",
    "cyclical": "schedules",
    "linear": "schedules",
    "parameter_groups": "groups",
    "sigmoid": "schedules",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_losses.aggregator import LossAggregator, TaskLosses
    from crosstask_losses.contract import Objective
    from crosstask_losses.demo import balancing_demo
    from crosstask_losses.given import Given, Output
    from crosstask_losses.groups import parameter_groups
    from crosstask_losses.quantizer import Quantized, VectorQuantizer
    from crosstask_losses.records import LossesResult
    from crosstask_losses.schedules import WeightSchedule, constant, cosine, cyclical, linear, sigmoid
    from crosstask_losses.stage import Losses
    from crosstask_losses.trainer import ObjectiveTrainer
