"""The contract's checks."""

from crosstask.testing import conformance
from crosstask_adversarial import Adversarial

test_conformance = conformance(Adversarial)
