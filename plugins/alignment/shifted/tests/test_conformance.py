"""The stage and the method do what their contracts say."""

from crosstask.testing import conformance, reference_registry
from crosstask_alignment.testing import REFERENCE
from crosstask_shifted import AdversarialTransfer, Shift

TO_ONE = {"sources": ["moons"], "targets": ["turned"], "corruptions": ["noise"], "severities": [3], "attack_steps": 1}

test_stage = conformance(Shift, options=TO_ONE, registry=reference_registry(REFERENCE))
test_adversarial = conformance(AdversarialTransfer, options={"attack_steps": 2})
