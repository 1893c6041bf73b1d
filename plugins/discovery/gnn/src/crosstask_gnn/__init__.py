"""Transfer predicted from what was measured and estimated of other pairs."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_gnn.choice import Prediction, Vote, predict
    from crosstask_gnn.pairs import Pairs
    from crosstask_gnn.relations import RelationshipNetwork, relations_of
    from crosstask_gnn.task_relationship_graph import TaskRelationshipGraph
    from crosstask_gnn.training import Labels, Shape

__all__ = [
    "Labels", "Pairs", "Prediction", "RelationshipNetwork", "Shape", "TaskRelationshipGraph", "Vote", "predict",
    "relations_of",
]  # fmt: skip

__getattr__ = lazily(
    __name__,
    {
        "Labels": "training",
        "Pairs": "pairs",
        "Prediction": "choice",
        "RelationshipNetwork": "relations",
        "Shape": "training",
        "TaskRelationshipGraph": "task_relationship_graph",
        "Vote": "choice",
        "predict": "choice",
        "relations_of": "relations",
    },
)
