"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    "federation",
    api=(2, 0),
    points=[
        Point(
            "federation",
            "crosstask_federation.contract:Federation",
            kit="crosstask_federation.kit:FederationKit",
            template="crosstask_federation:template",
            summary="What sites that keep their data compute, and what a server makes of their answers",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "federated",
            "crosstask_federation.stage:Federated",
            summary="A model learned by sites that keep their data, beside all data in one place and each site alone",
        ),
        Extension(
            "stage",
            "shared_edges",
            "crosstask_federation.edges:SharedEdges",
            summary="Transfers that sites measure on their own data, merged into one graph",
        ),
        Extension(
            "recipe",
            "federation",
            "crosstask_federation:recipes/federation.toml",
            summary="Ten digits at eight sites, whose images stay there",
        ),
    ],
)
