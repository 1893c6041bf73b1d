"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-discovery",
    extensions=[
        Extension(
            "discovery",
            "example_discovery",
            "crosstask_example_discovery.example_discovery:ExampleDiscovery",
            summary="Compares the class names of tasks",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
