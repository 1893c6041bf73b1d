"""Each sampler does what its contract says."""

from crosstask.testing import conformance
from crosstask_scheduler import LossBased, Performance, PerformanceBased, RoundRobin, Uniform

test_uniform = conformance(Uniform)
test_two_tasks = conformance(Uniform, options={"tasks_per_step": 2})
test_round_robin = conformance(RoundRobin)
test_loss_based = conformance(LossBased)
test_performance = conformance(Performance)
test_performance_based = conformance(PerformanceBased)
