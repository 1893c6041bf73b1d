"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="cross-stitch",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "cross_stitch",
            "crosstask_cross_stitch.cross_stitch:CrossStitch",
            summary="A network for each task, which takes something of the others' after every stage.",
            source="Misra et al., Cross-stitch networks for multi-task learning, CVPR 2016",
        ),
    ],
)
