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
    "adapt": "adapting",
    "continual_scores": "scores",
    "majority_scores": "scores",
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
    from crosstask_continual.learner import ContinualLearner, ScenarioWarning
    from crosstask_continual.model import SCENARIOS, ContinualModel
    from crosstask_continual.records import ContinualResult, ContinualScores
    from crosstask_continual.scores import continual_scores, majority_scores
    from crosstask_continual.split import split_by_classes
    from crosstask_continual.stage import Continual
