"""The checks of every alignment."""

from crosstask.testing import conformance
from crosstask_mmd import MMD

test_conformance = conformance(MMD)
