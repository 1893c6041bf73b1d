"""The checks of every alignment."""

from crosstask.testing import conformance, reference_registry
from crosstask_alignment.testing import REFERENCE
from crosstask_mmd import MMD

test_conformance = conformance(MMD, registry=reference_registry(REFERENCE))
