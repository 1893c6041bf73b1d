"""The stage does what its contract says, with the kit's own discoverer."""

from crosstask.testing import conformance, reference_registry
from crosstask_discovery import Discovery

test_conformance = conformance(Discovery, options={"discoverers": ["reference"]}, registry=reference_registry())
