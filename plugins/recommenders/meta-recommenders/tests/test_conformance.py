"""Every check of the contract."""

from crosstask.testing import conformance
from crosstask_meta_recommenders import MAMLUsers, PrototypeUsers, ReptileUsers

SMALL = {"steps": 15, "factors": 2, "hidden_dims": [8], "meta_batch": 8, "support": 3, "queries": 3, "negatives": 1}

test_maml = conformance(MAMLUsers, options=SMALL)
test_reptile = conformance(ReptileUsers, options=SMALL)
test_prototypical = conformance(PrototypeUsers, options=SMALL)
