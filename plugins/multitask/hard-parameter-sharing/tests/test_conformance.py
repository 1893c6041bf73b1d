"""Hard parameter sharing does what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_hard_parameter_sharing import HardParameterSharing

test_conformance = conformance(HardParameterSharing)
test_hidden_layer = conformance(HardParameterSharing, options={"hidden": 8})
