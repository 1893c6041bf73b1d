"""The contract's checks."""

from crosstask.testing import conformance
from crosstask_bitfit import BitFit

test_conformance = conformance(BitFit)
