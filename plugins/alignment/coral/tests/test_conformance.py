"""The checks of every alignment."""

from crosstask.testing import conformance
from crosstask_coral import CORAL

test_conformance = conformance(CORAL)
