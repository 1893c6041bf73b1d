"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-publisher",
    extensions=[
        Extension(
            "publisher",
            "example_publisher",
            "crosstask_example_publisher.example_publisher:ExamplePublisher",
            summary="A folder for each licence",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
