"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="mmd",
    api=(2, 0),
    extensions=[
        Extension(
            "alignment",
            "mmd",
            "crosstask_mmd.mmd:MMD",
            summary="The maximum mean discrepancy of features, over several bandwidths",
            source="Gretton et al. (2012), A Kernel Two-Sample Test",
            default=True,
        ),
    ],
)
