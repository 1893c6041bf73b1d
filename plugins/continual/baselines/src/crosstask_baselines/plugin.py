"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="baselines",
    extensions=[
        Extension(
            "continual",
            "naive",
            "crosstask_baselines.naive:Naive",
            summary="Nothing against forgetting: the lower bound",
        ),
        Extension(
            "continual",
            "joint",
            "crosstask_baselines.joint:Joint",
            summary="Learns all earlier data again with every task: the upper bound",
        ),
    ],
    api=(2, 0),
)
