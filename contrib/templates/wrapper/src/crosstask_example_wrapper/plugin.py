"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-wrapper",
    extensions=[
        Extension(
            "wrapper",
            "example_wrapper",
            "crosstask_example_wrapper.example_wrapper:ExampleWrapper",
            summary="Trusts uncertain edges less",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
