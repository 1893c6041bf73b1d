"""The checks of every alignment."""

from crosstask.testing import conformance, reference_registry
from crosstask_alignment.testing import REFERENCE
from crosstask_coral import CORAL

test_conformance = conformance(CORAL, registry=reference_registry(REFERENCE))
