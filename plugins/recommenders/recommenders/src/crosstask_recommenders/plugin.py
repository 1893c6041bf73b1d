"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="recommenders",
    api=(2, 0),
    points=[
        Point(
            "recommender",
            "crosstask_recommenders.contract:Recommender",
            kit="crosstask_recommenders.kit:RecommenderKit",
            template="crosstask_recommenders:template",
            summary="What a user of a few ratings will like",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "recommend",
            "crosstask_recommenders.stage:Recommend",
            summary="Recommenders judged on users that they have never seen, by the number of support ratings",
        ),
        Extension(
            "recipe",
            "recommend",
            "crosstask_recommenders:recipes/recommend.toml",
            summary="Handwritten digits as users who rate pixels: the rest of one from a few",
        ),
    ],
)
