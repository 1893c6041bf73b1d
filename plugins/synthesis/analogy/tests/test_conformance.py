"""The analogy does what the contract of synthesizers says."""

from crosstask.testing import conformance
from crosstask_analogy import AnalogyTransfer

test_conformance = conformance(AnalogyTransfer, options={"refit": 10})
