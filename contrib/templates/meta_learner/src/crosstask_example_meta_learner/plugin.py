"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-meta-learner",
    extensions=[
        Extension(
            "meta_learner",
            "example_meta_learner",
            "crosstask_example_meta_learner.example_meta_learner:ExampleMetaLearner",
            summary="Ridge regression on learned features",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
