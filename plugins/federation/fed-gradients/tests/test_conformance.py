"""It does what the contract of federations says."""

from crosstask.testing import conformance, reference_registry
from crosstask_fed_gradients import FedGradients
from crosstask_fed_gradients.plugin import PLUGIN
from crosstask_federation.plugin import PLUGIN as FEDERATION

OPTIONS = {"learning_rate": 0.5, "momentum": 0.5}

REGISTRY = reference_registry(FEDERATION, PLUGIN)

test_balanced = conformance(FedGradients, options={**OPTIONS, "balancer": "reference"}, registry=REGISTRY)
