"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-curriculum",
    extensions=[
        Extension(
            "curriculum",
            "example_curriculum",
            "crosstask_example_curriculum.example_curriculum:ExampleCurriculum",
            summary="Most helpful task last, right before the target",
            source="",  # a paper, if the algorithm has one
        ),
    ],
    api=(2, 0),
)
