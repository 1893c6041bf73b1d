"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-store",
    extensions=[
        Extension(
            "store",
            "example-store",
            "crosstask_example_store.example_store:ExampleStore",
            summary="A folder of JSON and safetensors files",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
