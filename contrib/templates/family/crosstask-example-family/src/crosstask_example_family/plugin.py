"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="example-family",
    points=[
        Point(
            "example_family",
            "crosstask_example_family.contract:ExampleFamily",
            kit="crosstask_example_family.kit:ExampleFamilyKit",
            template="crosstask_example_family:template",
            summary="How good the answers of a classifier are",
            version=(1, 0),  # of this contract alone: components state it as `api` of their extension
        ),
    ],
    extensions=[
        Extension(
            "example_family",
            "balanced",
            "crosstask_example_family.balanced:Balanced",
            summary="Mean share of right answers over the classes",
            source="",  # a paper, if the algorithm has one
            default=True,
            api=(1, 0),
        ),
        Extension(
            "example_family",
            "likely",
            "crosstask_example_family.likely:Likely",
            summary="Mean probability of the right class",
            api=(1, 0),
        ),
        Extension(
            "stage",
            "example_family",
            "crosstask_example_family.stage:ExampleFamilyStage",
            summary="Scores the tasks' own models",
        ),
        Extension(
            "command",
            "example-family",
            "crosstask_example_family.cli:command",
            summary="Print the scores of a run.",
        ),
        Extension(
            "recipe",
            "example-family",
            "crosstask_example_family:recipes/example_family.toml",
            summary="Three tasks of points in the plane, scored",
        ),
    ],
    api=(2, 0),
)
