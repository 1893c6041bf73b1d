"""The stages do what the contract of stages says."""

from crosstask import Budget
from crosstask.testing import conformance, reference_registry
from crosstask_federation import Federated, SharedEdges
from crosstask_federation.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)
BUDGET = Budget(steps=2, batch_size=16, learning_rate=0.05, optimizer="sgd")
TOGETHER = {"tasks": ["moons", "turned"], "rounds": 1, "budget": BUDGET, "yardsticks": False}

test_federated = conformance(Federated, options=TOGETHER, registry=REGISTRY)
test_shared_edges = conformance(SharedEdges, options={"sources": ["moons"], "tasks": ["turned"]}, registry=REGISTRY)
