"""The component does what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_cross_stitch import CrossStitch

test_conformance = conformance(CrossStitch)
