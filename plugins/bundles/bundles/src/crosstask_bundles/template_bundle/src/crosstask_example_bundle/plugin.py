"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-bundle",
    extensions=[
        Extension(
            "bundle",
            "example_bundle",
            "crosstask_example_bundle.example_bundle:ExampleBundle",
            summary="What was measured between some tasks",
        ),
    ],
    api=(2, 0),
)
