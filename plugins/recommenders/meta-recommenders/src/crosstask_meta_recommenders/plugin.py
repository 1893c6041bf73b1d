"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="meta-recommenders",
    api=(2, 0),
    extensions=[
        Extension(
            "recommender",
            "maml",
            "crosstask_meta_recommenders.learned:MAMLUsers",
            summary="A network of items' features that a few gradient steps make a user's own",
            source="Lee et al. 2019, MeLU, KDD, arXiv:1908.00413; Finn, Abbeel, Levine 2017, arXiv:1703.03400",
        ),
        Extension(
            "recommender",
            "reptile",
            "crosstask_meta_recommenders.learned:ReptileUsers",
            summary="The same from weights that lie near those of every user",
            source="Nichol, Achiam, Schulman 2018, arXiv:1803.02999",
        ),
        Extension(
            "recommender",
            "prototypical",
            "crosstask_meta_recommenders.learned:PrototypeUsers",
            summary="What a user likes, and what not, as means in a space of items' features",
            source="Snell, Swersky, Zemel 2017, arXiv:1703.05175",
        ),
    ],
)
