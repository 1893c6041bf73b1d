"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    "continual",
    api=(2, 0),
    points=[
        Point(
            "continual",
            "crosstask_continual.contract:ContinualStrategy",
            kit="crosstask_continual.kit:ContinualKit",
            template="crosstask_continual:template",
            summary="What keeps a model from forgetting earlier tasks while it learns the next",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "continual",
            "crosstask_continual.stage:Continual",
            summary="Tasks one after another, with forgetting measured",
        ),
        Extension(
            "recipe",
            "continual",
            "crosstask_continual:recipes/continual.toml",
            summary="Ten digits in five lessons, with a small memory",
        ),
    ],
)
