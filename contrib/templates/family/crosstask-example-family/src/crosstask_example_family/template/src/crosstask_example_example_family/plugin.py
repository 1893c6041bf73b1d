"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-example-family",
    extensions=[
        Extension(
            "example_family",
            "example_example_family",
            "crosstask_example_example_family.example_example_family:ExampleExampleFamily",
            summary="Forgives where the right class comes close",
            source="",  # a paper, if the algorithm has one
            api=(1, 0),
        ),
    ],
    api=(2, 0),
)
