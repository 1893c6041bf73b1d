"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="coral",
    api=(2, 0),
    extensions=[
        Extension(
            "alignment",
            "coral",
            "crosstask_coral.coral:CORAL",
            summary="The difference of the covariances of features",
            source="Sun, Saenko (2016), Deep CORAL",
        ),
    ],
)
