"""The contract's checks."""

from crosstask.testing import conformance
from crosstask_moving_digits import MovingDigits

test_conformance = conformance(MovingDigits, options={"train": 12, "test": 4, "steps": 3})
