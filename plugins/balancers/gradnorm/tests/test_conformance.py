"""GradNorm does what the contract of balancers and its own claims say."""

from crosstask.testing import conformance
from crosstask_gradnorm import GradNorm

test_conformance = conformance(GradNorm)
