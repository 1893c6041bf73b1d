"""Each curriculum does what its contract says."""

import crosstask_orders
from crosstask.testing import conformance

for _name in crosstask_orders.__all__:
    globals()[f"test_{_name}"] = conformance(getattr(crosstask_orders, _name))
