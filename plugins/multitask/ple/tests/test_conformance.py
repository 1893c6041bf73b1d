"""PLE and CGC do what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_ple import CGC, PLE

test_conformance = conformance(PLE)
test_cgc = conformance(CGC, options={"task_experts": 2})
