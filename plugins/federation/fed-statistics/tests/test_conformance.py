"""It does what the contract of federations says."""

from crosstask.testing import conformance, reference_registry
from crosstask_fed_statistics import FedStatistics
from crosstask_fed_statistics.plugin import PLUGIN
from crosstask_federation.plugin import PLUGIN as FEDERATION

REGISTRY = reference_registry(FEDERATION, PLUGIN)

test_ridge = conformance(FedStatistics, registry=REGISTRY)
