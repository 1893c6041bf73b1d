"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-family-extra",
    extensions=[
        Extension(
            "example_family",
            "worst",
            "crosstask_example_family_extra.worst:Worst",
            summary="The lowest of several scores",
            api=(1, 0),
        ),
        Extension(
            "wrapper",
            "example_family_cautious",
            "crosstask_example_family_extra.cautious:Cautious",
            summary="Lowers every score by what chance may have given",
        ),
        Extension(
            "recipe",
            "example-family-extra",
            "crosstask_example_family_extra:recipes/example_family_extra.toml",
            summary="The recipe example-family with the lowest of two scores, lowered by what chance may have given",
        ),
    ],
    api=(2, 0),
)
