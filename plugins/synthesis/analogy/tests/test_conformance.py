"""The analogy does what the contract of synthesizers says."""

from crosstask.testing import conformance
from crosstask_analogy import AnalogyTransfer
from crosstask_synthesis.testing import check_expectation

test_conformance = conformance(AnalogyTransfer, options={"refit": 10})


def test_it_says_what_can_be_expected() -> None:
    check_expectation(AnalogyTransfer(refit=10))
