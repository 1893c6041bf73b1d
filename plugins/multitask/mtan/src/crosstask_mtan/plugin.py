"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="mtan",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "mtan",
            "crosstask_mtan.mtan:MTAN",
            summary="One trunk, and for each task attention to the features of its stages.",
            source="Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention, CVPR (2019)",
        ),
    ],
)
