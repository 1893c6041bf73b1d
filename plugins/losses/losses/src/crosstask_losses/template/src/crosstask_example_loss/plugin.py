"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-loss",
    extensions=[
        Extension(
            "loss",
            "example_loss",
            "crosstask_example_loss.example_loss:ExampleLoss",
            summary="Frames whose changes are reconstructed, and states that change little",
            source="",  # a paper, if the objective has one
        ),
    ],
    api=(2, 0),
)
