"""Every check of the contract."""

from crosstask.testing import conformance, reference_registry
from crosstask_strategist import LearnedStrategist

test_conformance = conformance(LearnedStrategist, registry=reference_registry())
