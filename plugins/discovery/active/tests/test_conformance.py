"""Active does what the contract of discoverers says, with the kit's own discoverer as all of its parts."""

from crosstask.testing import conformance, reference_registry
from crosstask_active import Active

test_conformance = conformance(
    Active,
    options={"estimators": ["reference"], "probe": "reference", "predictor": "reference"},
    registry=reference_registry(),
)
