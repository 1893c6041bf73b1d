"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-recommender",
    extensions=[
        Extension(
            "recommender",
            "example_recommender",
            "crosstask_example_recommender.example_recommender:ExampleRecommender",
            summary="The mean of a user, and nothing else",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
