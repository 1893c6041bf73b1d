"""RGB does what the contract of balancers and its own claims say."""

from crosstask.testing import conformance
from crosstask_rgb import RGB

test_conformance = conformance(RGB)
