"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-synthesis",
    extensions=[
        Extension(
            "synthesis",
            "example_synthesis",
            "crosstask_example_synthesis.example_synthesis:ExampleSynthesis",
            summary="Mean of the models that know the new task's classes",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
