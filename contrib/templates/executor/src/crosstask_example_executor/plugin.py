"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-executor",
    extensions=[
        Extension(
            "executor",
            "example_executor",
            "crosstask_example_executor.example_executor:ExampleExecutor",
            summary="Runs jobs in threads",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
