"""Each does what the contract of continual strategies says."""

import crosstask_baselines
from crosstask.testing import conformance

for _name in crosstask_baselines.__all__:
    globals()[f"test_{_name}"] = conformance(getattr(crosstask_baselines, _name))
