"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-transfer",
    extensions=[
        Extension(
            "transfer",
            "example_transfer",
            "crosstask_example_transfer.example_transfer:ExampleTransfer",
            summary="The head first, then everything",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
