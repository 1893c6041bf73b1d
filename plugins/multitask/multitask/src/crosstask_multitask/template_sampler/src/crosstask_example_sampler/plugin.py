"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-sampler",
    extensions=[
        Extension(
            "sampler",
            "example_sampler",
            "crosstask_example_sampler.example_sampler:ExampleSampler",
            summary="Draws tasks with a large loss more often",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
