"""The checks of every alignment."""

from crosstask.testing import conformance, reference_registry
from crosstask_alignment.testing import REFERENCE
from crosstask_cdan import CDAN

test_conformance = conformance(CDAN, registry=reference_registry(REFERENCE))
