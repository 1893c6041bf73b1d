"""The ensemble does what the contract of synthesizers says."""

from crosstask.testing import conformance
from crosstask_ensemble import WeightedEnsemble
from crosstask_synthesis.testing import check_expectation

test_conformance = conformance(WeightedEnsemble)


def test_it_says_what_can_be_expected() -> None:
    check_expectation(WeightedEnsemble())
