"""Both, also with other options, do what the contract of balancers and their own claims say."""

from crosstask.testing import conformance
from crosstask_robust import Krum, TrimmedMean

test_krum = conformance(Krum)
test_multi_krum = conformance(Krum, options={"byzantine": 0, "selected": 2})
test_trimmed_mean = conformance(TrimmedMean)
test_median = conformance(TrimmedMean, options={"share": 0.5})
