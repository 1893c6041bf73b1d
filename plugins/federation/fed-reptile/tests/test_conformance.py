"""They do what the contract of federations says."""

from crosstask.testing import conformance, reference_registry
from crosstask_fed_reptile import FedReptile, PerFedAvg
from crosstask_fed_reptile.plugin import PLUGIN
from crosstask_federation.plugin import PLUGIN as FEDERATION

REGISTRY = reference_registry(FEDERATION, PLUGIN)

test_reptile = conformance(FedReptile, registry=REGISTRY)
test_per_fedavg = conformance(PerFedAvg, registry=REGISTRY)
