"""MMoE does what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_mmoe import MMoE

test_conformance = conformance(MMoE)
test_features = conformance(MMoE, options={"gate_sees": "features", "shared_stages": 1, "hidden": 4})
