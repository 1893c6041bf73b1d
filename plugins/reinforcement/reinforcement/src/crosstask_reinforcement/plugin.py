"""The manifest."""

from crosstask.manifest import Plugin, Point

PLUGIN = Plugin(
    name="reinforcement",
    api=(2, 0),
    points=[
        Point(
            "agent",
            "crosstask_reinforcement.contract:Agent",
            summary="Learns to act in several tasks at once",
        ),
        Point(
            "world",
            "crosstask_reinforcement.contract:World",
            summary="Environments that are tasks of one portfolio",
        ),
    ],
    extensions=[],
)
