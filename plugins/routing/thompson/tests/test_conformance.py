"""Every check of the contract."""

from crosstask.testing import conformance, reference_registry
from crosstask_routing.testing import REFERENCE
from crosstask_thompson import LinearThompson

test_conformance = conformance(LinearThompson, registry=reference_registry(REFERENCE))
