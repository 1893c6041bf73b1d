"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="progressive",
    extensions=[
        Extension(
            "continual",
            "progressive",
            "crosstask_progressive.progressive:Progressive",
            summary="A new column of the network for each task, fed by the frozen earlier ones",
            source="Rusu et al. (2016), Progressive neural networks",
        ),
    ],
    api=(2, 0),
)
