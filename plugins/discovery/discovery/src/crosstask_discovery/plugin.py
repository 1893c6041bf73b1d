"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="discovery",
    extensions=[
        Extension(
            "stage",
            "discovery",
            "crosstask_discovery.stage:Discovery",
            summary="Which task helps which: a transfer graph, measured, estimated and predicted",
        ),
        Extension(
            "command",
            "discover",
            "crosstask_discovery.cli:command",
            summary="Find out which tasks help which, and write the transfer graph.",
        ),
    ],
    api=(2, 0),
)
