"""Every check of the contract."""

from crosstask.testing import conformance, reference_registry
from crosstask_baseline_recommenders import BPRMF, BiasedMF, GlobalMean, ItemMean, Popularity, UserMean
from crosstask_recommenders.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)  # that of all that is installed takes longer than the checks

test_global_mean = conformance(GlobalMean, registry=REGISTRY)
test_item_mean = conformance(ItemMean, registry=REGISTRY)
test_user_mean = conformance(UserMean, options={"item_means": True}, registry=REGISTRY)
test_popularity = conformance(Popularity, registry=REGISTRY)
test_biased_mf = conformance(BiasedMF, options={"factors": 3}, registry=REGISTRY)
test_bpr_mf = conformance(BPRMF, options={"factors": 3, "epochs": 3, "batch_size": 64}, registry=REGISTRY)
