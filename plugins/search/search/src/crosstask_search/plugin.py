"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="search",
    api=(2, 0),
    points=[
        Point(
            "search",
            "crosstask_search.contract:Search",
            kit="crosstask_search.kit:SearchKit",
            template="crosstask_search:template",
            summary="Which architecture, or which hyper-parameters, to try next",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "search",
            "crosstask_search.stage:NetworkSearch",
            summary="The network for a task, and what else of its training is chosen",
        ),
        Extension(
            "recipe",
            "search",
            "crosstask_search:recipes/search.toml",
            summary="A network and a step size for parity",
        ),
    ],
)
