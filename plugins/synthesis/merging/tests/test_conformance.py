"""Every merging method does what the contract of synthesizers says."""

from crosstask.testing import conformance
from crosstask_merging import (
    DARE,
    TIES,
    Evolutionary,
    FisherMerge,
    GreedySoup,
    RegMean,
    Slerp,
    TaskArithmetic,
    UniformSoup,
)
from crosstask_synthesis.testing import check_expectation

test_uniform_soup = conformance(UniformSoup)
test_greedy_soup = conformance(GreedySoup)
test_task_arithmetic = conformance(TaskArithmetic, options={"strength": 0.4})
test_ties = conformance(TIES)
test_dare = conformance(DARE, options={"drop": 0.5})
test_slerp = conformance(Slerp)
test_fisher_merge = conformance(FisherMerge)
test_regmean = conformance(RegMean)
test_evolutionary = conformance(Evolutionary, options={"evaluations": 12})


def test_it_says_what_can_be_expected() -> None:
    check_expectation(UniformSoup())
