"""The checks of every transfer method."""

from crosstask.testing import conformance, reference_registry
from crosstask_aligned_transfer import AlignedTransfer
from crosstask_alignment.testing import REFERENCE

test_conformance = conformance(AlignedTransfer, registry=reference_registry(REFERENCE))
