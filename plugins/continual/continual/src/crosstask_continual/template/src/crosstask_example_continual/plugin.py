"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-continual",
    extensions=[
        Extension(
            "continual",
            "example_continual",
            "crosstask_example_continual.example_continual:ExampleContinual",
            summary="Replays the hardest samples of earlier tasks",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
