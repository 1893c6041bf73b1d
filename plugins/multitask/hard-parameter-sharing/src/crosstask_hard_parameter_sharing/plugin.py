"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="hard-parameter-sharing",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "hard_parameter_sharing",
            "crosstask_hard_parameter_sharing.hard_parameter_sharing:HardParameterSharing",
            summary="One trunk for all tasks, one linear head for each.",
            source="Caruana, Multitask learning, Machine Learning 28 (1997)",
            default=True,
        ),
    ],
)
