"""What this distribution offers. Nothing heavy is imported here: the registry reads it to list plugins."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="example-recipe",
    extensions=[
        Extension(
            "recipe",
            "example-recipe",
            "crosstask_example_recipe:recipes/example_recipe.toml",
            summary="Three tasks of points in the plane, and which helps which",
        ),
    ],
    api=(2, 0),
)
