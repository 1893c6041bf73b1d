"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-world",
    extensions=[
        Extension(
            "world",
            "example_world",
            "crosstask_example_world.example_world:ExampleWorld",
            summary="Corridors of different lengths to walk to the right",
            source="",  # where the environments come from
        ),
    ],
    api=(2, 0),
)
