"""The stage does what the contract of stages says."""

from crosstask.testing import conformance, reference_registry
from crosstask_lifelong import Lifelong
from crosstask_lifelong.testing import REFERENCE

SMALL = {"per_task": 1, "estimators": ["reference"], "probe": "tries", "judge": "tries"}

test_stage = conformance(Lifelong, options=SMALL, registry=reference_registry(REFERENCE))
