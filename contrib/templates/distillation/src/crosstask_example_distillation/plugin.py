"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-distillation",
    extensions=[
        Extension(
            "distillation",
            "example_distillation",
            "crosstask_example_distillation.example_distillation:ExampleDistillation",
            summary="The mean weights of trained models, as a prior",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
