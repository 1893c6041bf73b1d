"""Every check of the contract."""

from crosstask.testing import conformance, reference_registry
from crosstask_baseline_routers import BestStatic, EpsilonGreedy
from crosstask_routing.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)

test_epsilon_greedy = conformance(EpsilonGreedy, registry=REGISTRY)
test_best_static = conformance(BestStatic, options={"width": 0.5}, registry=REGISTRY)
