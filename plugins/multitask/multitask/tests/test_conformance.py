"""The stage does what the contract of stages says."""

from crosstask import Budget
from crosstask.testing import conformance, reference_registry
from crosstask_multitask import Multitask
from crosstask_multitask.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)
JOINT = {"tasks": ["moons", "halves"], "budget": Budget(steps=8, batch_size=16, evaluate_every=3)}

test_stage = conformance(Multitask, options=JOINT, registry=REGISTRY)
test_with_a_sampler = conformance(Multitask, options={**JOINT, "sampler": "reference"}, registry=REGISTRY)
