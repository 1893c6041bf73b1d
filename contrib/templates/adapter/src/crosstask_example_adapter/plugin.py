"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-adapter",
    extensions=[
        Extension(
            "adapter",
            "example_adapter",
            "crosstask_example_adapter.example_adapter:ExampleAdapter",
            summary="Scales the outputs of linear layers",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
