"""Each does what the contract of continual strategies says."""

from crosstask.testing import conformance
from crosstask_si import SI

test_conformance = conformance(SI)
