"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-router",
    extensions=[
        Extension(
            "router",
            "example_router",
            "crosstask_example_router.example_router:ExampleRouter",
            summary="The best tool so far in the nearest context",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
