"""Each transfer method does what its contract says."""

import crosstask_finetuning
from crosstask.testing import conformance

for _name in crosstask_finetuning.__all__:
    globals()[f"test_{_name}"] = conformance(getattr(crosstask_finetuning, _name))
