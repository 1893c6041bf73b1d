"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-source",
    extensions=[
        Extension(
            "source",
            "example_source",
            "crosstask_example_source.example_source:ExampleSource",
            summary="Tasks about points in the plane",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
