"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-alignment",
    extensions=[
        Extension(
            "alignment",
            "example_alignment",
            "crosstask_example_alignment.example_alignment:ExampleAlignment",
            summary="Domains have the same quantiles of every feature",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
