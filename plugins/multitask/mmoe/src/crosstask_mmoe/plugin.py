"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="mmoe",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "mmoe",
            "crosstask_mmoe.mmoe:MMoE",
            summary="Experts for all tasks, and for each task a gate that weighs them.",
            source="Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, "
            "KDD (2018)",
        ),
    ],
)
