"""PCGrad does what the contract of balancers and its own claims say."""

from crosstask.testing import conformance
from crosstask_pcgrad import PCGrad

test_conformance = conformance(PCGrad)
