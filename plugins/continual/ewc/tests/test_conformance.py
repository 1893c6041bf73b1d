"""Each does what the contract of continual strategies says."""

from crosstask.testing import conformance
from crosstask_ewc import EWC, MAS

test_ewc = conformance(EWC, options={"strength": 50.0})
test_mas = conformance(MAS)
