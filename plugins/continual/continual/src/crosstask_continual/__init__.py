"""Continual learning: tasks one after another, forgetting measured."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "SCENARIOS": "model",
    "Batch": "batch",
    "Continual": "stage",
    "ContinualLearner": "learner",
    "ContinualModel": "model",
    "ContinualResult": "records",
    "ContinualScores": "records",
    "ContinualStrategy": "contract",
    "NothingLearnedWarning": "comparison",
    "ScenarioWarning": "learner",
    "TrainingDataWarning": "learner",
    "adapt": "adapting",
    "average_accuracy": "scores",
    "backward_transfer": "scores",
    "chance_scores": "scores",
    "continual_scores": "scores",
    "forgetting": "scores",
    "forward_transfer": "scores",
    "knowledge_retention": "scores",
    "majority_scores": "scores",
    "resize_head": "heads",
    "run_continual": "comparison",
    "split_by_classes": "split",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_continual.adapting import adapt
    from crosstask_continual.batch import Batch
    from crosstask_continual.comparison import NothingLearnedWarning, run_continual
    from crosstask_continual.contract import ContinualStrategy
    from crosstask_continual.heads import resize_head
    from crosstask_continual.learner import ContinualLearner, ScenarioWarning, TrainingDataWarning
    from crosstask_continual.model import SCENARIOS, ContinualModel
    from crosstask_continual.records import ContinualResult, ContinualScores
    from crosstask_continual.scores import (
        average_accuracy,
        backward_transfer,
        chance_scores,
        continual_scores,
        forgetting,
        forward_transfer,
        knowledge_retention,
        majority_scores,
    )
    from crosstask_continual.split import split_by_classes
    from crosstask_continual.stage import Continual
