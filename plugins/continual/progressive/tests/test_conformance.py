"""It does what the contract of continual strategies says."""

from crosstask.testing import conformance
from crosstask_progressive import Progressive

test_conformance = conformance(Progressive)
