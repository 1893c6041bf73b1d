"""Every check of the contract."""

from crosstask.testing import conformance
from crosstask_baseline_recommenders import BPRMF, BiasedMF, GlobalMean, ItemMean, Popularity, UserMean

test_global_mean = conformance(GlobalMean)
test_item_mean = conformance(ItemMean)
test_user_mean = conformance(UserMean, options={"item_means": True})
test_popularity = conformance(Popularity)
test_biased_mf = conformance(BiasedMF, options={"factors": 3})
test_bpr_mf = conformance(BPRMF, options={"factors": 3, "epochs": 3, "batch_size": 64})
