"""Transfer predicted from what was measured and estimated of other pairs."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_gnn.choice import Prediction, Vote, predict
    from crosstask_gnn.pairs import Pairs
    from crosstask_gnn.task_relationship_graph import TaskRelationshipGraph
    from crosstask_gnn.training import Labels, Shape

__all__ = ["Labels", "Pairs", "Prediction", "Shape", "TaskRelationshipGraph", "Vote", "predict"]

__getattr__ = lazily(
    __name__,
    {
        "Labels": "training",
        "Pairs": "pairs",
        "Prediction": "choice",
        "Shape": "training",
        "TaskRelationshipGraph": "task_relationship_graph",
        "Vote": "choice",
        "predict": "choice",
    },
)
