"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="active",
    extensions=[
        Extension(
            "discovery",
            "active",
            "crosstask_active.active:Active",
            summary="Measures the few pairs that promise most for the choice of sources, and predicts the others",
            source="Frazier et al. (2008), A knowledge-gradient policy for sequential information collection",
        ),
    ],
    api=(2, 0),
)
