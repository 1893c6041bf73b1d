"""The contract's checks."""

from crosstask.testing import conformance
from crosstask_perceiver import Perceiver

test_conformance = conformance(Perceiver)
