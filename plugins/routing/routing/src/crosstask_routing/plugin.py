"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="routing",
    api=(2, 0),
    points=[
        Point(
            "router",
            "crosstask_routing.contract:Router",
            kit="crosstask_routing.kit:RouterKit",
            template="crosstask_routing:template",
            summary="Which tool to use for a task, learned from what came of it",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "routing",
            "crosstask_routing.stage:Routing",
            summary="Which model should answer a request whose task is not said, learned from right and wrong answers",
        ),
        Extension(
            "recipe",
            "routing",
            "crosstask_routing:recipes/routing.toml",
            summary="Five views of digits, six models, and nobody says which view a request is of",
        ),
    ],
)
