"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-detector",
    extensions=[
        Extension(
            "detector",
            "example_detector",
            "crosstask_example_detector.example_detector:ExampleDetector",
            summary="Records below a level, counted",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
