"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-stage",
    extensions=[
        Extension(
            "stage",
            "example_stage",
            "crosstask_example_stage.example_stage:ExampleStage",
            summary="Which task to start from",
            source="",  # a paper, if the algorithm has one
        ),
        Extension(
            "recipe",
            "example-stage",
            "crosstask_example_stage:recipes/example_stage.toml",
            summary="Which of two tasks helps to learn a third",
        ),
    ],
    api=(2, 0),
)
