"""Every estimator does what the contract of discoverers says."""

from crosstask import Portfolio
from crosstask.testing import conformance, small_portfolio
from crosstask_estimators import CKA, GBC, KNN, LEEP, NCE, Fisher, HScore, LogME, MeanZ, Ridge, TransRate


def three_tasks() -> Portfolio:
    whole = small_portfolio()
    return Portfolio([whole["moons"], whole["halves"], whole["quarters"]], unseen=whole.unseen)


test_logme = conformance(LogME, portfolio=three_tasks)
test_leep = conformance(LEEP, portfolio=three_tasks)
test_nce = conformance(NCE, portfolio=three_tasks)
test_hscore = conformance(HScore, portfolio=three_tasks)
test_transrate = conformance(TransRate, portfolio=three_tasks)
test_gbc = conformance(GBC, portfolio=three_tasks)
test_cka = conformance(CKA, portfolio=three_tasks)
test_knn = conformance(KNN, portfolio=three_tasks)
test_ridge = conformance(Ridge, portfolio=three_tasks)
test_fisher = conformance(Fisher, portfolio=three_tasks)
test_mean_z = conformance(MeanZ, portfolio=three_tasks)
