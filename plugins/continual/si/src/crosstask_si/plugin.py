"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="si",
    extensions=[
        Extension(
            "continual",
            "si",
            "crosstask_si.si:SI",
            summary="Holds weights as much as their path lowered the loss",
            source="Zenke et al. (2017), Continual Learning Through Synaptic Intelligence",
        ),
    ],
    api=(2, 0),
)
