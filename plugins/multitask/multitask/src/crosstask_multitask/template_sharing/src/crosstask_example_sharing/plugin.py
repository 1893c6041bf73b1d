"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-sharing",
    extensions=[
        Extension(
            "sharing",
            "example_sharing",
            "crosstask_example_sharing.example_sharing:ExampleSharing",
            summary="A shared trunk and a small network per task",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
