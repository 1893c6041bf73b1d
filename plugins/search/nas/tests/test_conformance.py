from crosstask.testing import conformance
from crosstask_nas import Bayesian, Darts, Evolutionary, RandomSearch

test_random = conformance(RandomSearch)
test_evolutionary = conformance(Evolutionary, options={"population": 3, "tournament": 2})
test_bayesian = conformance(Bayesian, options={"initial": 3})
test_darts = conformance(Darts, options={"steps": 4})
test_darts_second_order = conformance(Darts, options={"steps": 3, "order": 2, "warmup": 0.0})
