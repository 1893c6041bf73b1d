"""The checks of every alignment."""

from crosstask.testing import conformance, reference_registry
from crosstask_alignment.testing import REFERENCE
from crosstask_dann import DANN

test_conformance = conformance(DANN, registry=reference_registry(REFERENCE))
