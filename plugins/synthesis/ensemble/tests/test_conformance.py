"""The ensemble does what the contract of synthesizers says."""

from crosstask.testing import conformance
from crosstask_ensemble import WeightedEnsemble

test_conformance = conformance(WeightedEnsemble)
