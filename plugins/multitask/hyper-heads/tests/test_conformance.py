"""The component does what the contract of sharing architectures says."""

from crosstask.testing import conformance
from crosstask_hyper_heads import HyperHeads

test_conformance = conformance(HyperHeads)
