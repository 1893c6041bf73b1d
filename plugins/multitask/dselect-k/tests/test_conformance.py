"""DSelect-k does what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_dselect_k import DSelectK

test_conformance = conformance(DSelectK, options={"experts": 3})
