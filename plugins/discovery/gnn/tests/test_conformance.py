"""TaskRelationshipGraph does what the contract of discoverers says."""

from crosstask.testing import conformance
from crosstask_gnn import TaskRelationshipGraph

SMALL = {"task_embedding_dim": 16, "hidden_dim": 16, "members": 1, "steps": 3, "folds": 2}

test_conformance = conformance(TaskRelationshipGraph, options=SMALL)
