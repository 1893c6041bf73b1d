"""MTAN does what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_mtan import MTAN

test_conformance = conformance(MTAN)
