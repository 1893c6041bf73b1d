"""The contract's checks."""

from crosstask.testing import conformance
from crosstask_elbo import Elbo

test_conformance = conformance(Elbo)
