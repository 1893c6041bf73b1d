"""The contract's checks."""

from crosstask.testing import conformance
from crosstask_predictive import Predictive

test_conformance = conformance(Predictive)
