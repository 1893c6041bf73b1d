"""The component does what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_progressive_columns import Progressive

test_conformance = conformance(Progressive)
