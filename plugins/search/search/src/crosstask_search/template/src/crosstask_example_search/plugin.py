"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-search",
    extensions=[
        Extension(
            "search",
            "example_search",
            "crosstask_example_search.example_search:ExampleSearch",
            summary="Changes the best point so far, one parameter at a time",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
