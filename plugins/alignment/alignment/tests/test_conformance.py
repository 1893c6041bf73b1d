"""The stage does what the contract of stages says."""

from crosstask import Budget
from crosstask.testing import conformance, reference_registry
from crosstask_alignment import Align
from crosstask_alignment.testing import REFERENCE

SMALL = {"sources": ["moons"], "targets": ["turned"], "budget": Budget(steps=6, batch_size=16, evaluate_every=3)}

test_stage = conformance(Align, options=SMALL, registry=reference_registry(REFERENCE))
