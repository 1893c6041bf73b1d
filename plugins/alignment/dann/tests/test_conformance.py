"""The checks of every alignment."""

from crosstask.testing import conformance
from crosstask_dann import DANN

test_conformance = conformance(DANN)
