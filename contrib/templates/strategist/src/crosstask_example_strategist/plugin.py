"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-strategist",
    extensions=[
        Extension(
            "strategist",
            "example_strategist",
            "crosstask_example_strategist.example_strategist:ExampleStrategist",
            summary="The transfer method of the best mean score for about as many samples",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
