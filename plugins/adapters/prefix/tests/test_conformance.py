"""The contract's checks."""

from crosstask.testing import conformance
from crosstask_prefix import Prefix

test_conformance = conformance(Prefix)
test_conformance_short = conformance(Prefix, options={"length": 1, "scale": 0.5})
