"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="baseline-recommenders",
    api=(2, 0),
    extensions=[
        Extension(
            "recommender",
            "global_mean",
            "crosstask_baseline_recommenders.means:GlobalMean",
            summary="The mean of all ratings, of every item for every user",
            source="Herlocker et al. 1999, SIGIR",
        ),
        Extension(
            "recommender",
            "item_mean",
            "crosstask_baseline_recommenders.means:ItemMean",
            summary="The shrunk mean of an item's ratings",
            source="Koren 2010, TKDD 4(1), section 2.1",
        ),
        Extension(
            "recommender",
            "user_mean",
            "crosstask_baseline_recommenders.means:UserMean",
            summary="The shrunk mean of a user's support ratings, with or without the items' means",
            source="Koren 2010, TKDD 4(1), section 2.1",
        ),
        Extension(
            "recommender",
            "popularity",
            "crosstask_baseline_recommenders.popularity:Popularity",
            summary="How many users have an item",
            source="Cremonesi, Koren, Turrin 2010, RecSys, section 4.1",
        ),
        Extension(
            "recommender",
            "biased_mf",
            "crosstask_baseline_recommenders.factorisation:BiasedMF",
            summary="Matrix factorisation by alternating least squares; a new user is a ridge regression",
            source="Koren, Bell, Volinsky 2009, Computer 42(8); Hu, Koren, Volinsky 2008, ICDM",
        ),
        Extension(
            "recommender",
            "bpr_mf",
            "crosstask_baseline_recommenders.bpr:BPRMF",
            summary="Matrix factorisation that ranks what users took above what they did not",
            source="Rendle et al. 2009, UAI, arXiv:1205.2618",
        ),
    ],
)
