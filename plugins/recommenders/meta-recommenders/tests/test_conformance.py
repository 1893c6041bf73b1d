"""Every check of the contract."""

from crosstask.testing import conformance, reference_registry
from crosstask_meta_recommenders import MAMLUsers, PrototypeUsers, ReptileUsers
from crosstask_recommenders.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)  # that of all that is installed takes longer than the checks

SMALL = {"steps": 8, "factors": 2, "hidden_dims": [8], "meta_batch": 4, "support": 3, "queries": 3, "negatives": 1}

test_maml = conformance(MAMLUsers, options=SMALL, registry=REGISTRY)
test_reptile = conformance(ReptileUsers, options=SMALL, registry=REGISTRY)
test_prototypical = conformance(PrototypeUsers, options=SMALL, registry=REGISTRY)
