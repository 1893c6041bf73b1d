"""The source does what its contract says."""

from crosstask.testing import conformance
from crosstask_digits import Digits

test_conformance = conformance(Digits)
