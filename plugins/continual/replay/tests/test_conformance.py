"""Each does what the contract of continual strategies says."""

import crosstask_replay
from crosstask.testing import conformance

for _name in crosstask_replay.__all__:
    globals()[f"test_{_name}"] = conformance(getattr(crosstask_replay, _name))
