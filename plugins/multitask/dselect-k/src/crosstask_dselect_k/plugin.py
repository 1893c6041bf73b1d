"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="dselect-k",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "dselect_k",
            "crosstask_dselect_k.dselect_k:DSelectK",
            summary="Experts for all tasks, of which each task comes to use k.",
            source="Hazimeh et al., DSelect-k: Differentiable Selection in the Mixture of Experts with Applications to "
            "Multi-Task Learning, NeurIPS (2021)",
        ),
    ],
)
