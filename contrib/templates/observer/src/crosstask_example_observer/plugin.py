"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-observer",
    extensions=[
        Extension(
            "observer",
            "example_observer",
            "crosstask_example_observer.example_observer:ExampleObserver",
            summary="Writes what happens to a file, a line of JSON each",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
