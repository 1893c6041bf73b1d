"""Each curriculum does what its contract says."""

import crosstask_curricula
from crosstask.testing import conformance

for _name in crosstask_curricula.__all__:
    globals()[f"test_{_name}"] = conformance(getattr(crosstask_curricula, _name))
