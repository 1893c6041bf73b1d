import pytest

from crosstask.testing import conformance
from crosstask_hpo import OptunaSearch

test_tpe = conformance(OptunaSearch, options={"initial": 3})
test_gp = pytest.mark.slow(conformance(OptunaSearch, options={"initial": 3, "sampler": "gp"}))  # 100 ms a proposal
