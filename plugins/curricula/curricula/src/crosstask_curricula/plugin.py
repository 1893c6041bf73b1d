"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="curricula",
    api=(2, 0),
    extensions=[
        Extension(
            "stage",
            "curriculum",
            "crosstask_curricula.stage:Curriculum",
            summary="A path of tasks to a target, beside scratch and the best single source",
        ),
        Extension(
            "command",
            "curriculum",
            "crosstask_curricula.cli:command",
            summary="Plan an order of tasks that ends with a target.",
        ),
    ],
)
