"""The checks of every alignment."""

from crosstask.testing import conformance
from crosstask_cdan import CDAN

test_conformance = conformance(CDAN)
