"""Each does what the contract of continual strategies says."""

from crosstask.testing import conformance
from crosstask_lwf import LwF

test_conformance = conformance(LwF)
