"""It does what the contract of federations says."""

from crosstask.testing import conformance, reference_registry
from crosstask_fedavg import FedAvg
from crosstask_fedavg.plugin import PLUGIN
from crosstask_federation.plugin import PLUGIN as FEDERATION

REGISTRY = reference_registry(FEDERATION, PLUGIN)

test_fedavg = conformance(FedAvg, registry=REGISTRY)
