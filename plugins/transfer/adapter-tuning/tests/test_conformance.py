"""The contract's checks, with an adapter that is merged and with one that stays in the model."""

from crosstask.testing import conformance, reference_registry
from crosstask_adapter_tuning import AdapterTransfer
from crosstask_adapters.testing import REFERENCE, Waves

test_conformance = conformance(AdapterTransfer, options={"adapter": "reference"}, registry=reference_registry())
test_conformance_merged = conformance(
    AdapterTransfer, options={"adapter": "shifts"}, registry=reference_registry(REFERENCE)
)
test_conformance_unmerged = conformance(AdapterTransfer, options={"adapter": Waves()})
