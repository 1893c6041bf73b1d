"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="hyper-heads",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "hyper_heads",
            "crosstask_hyper_heads.hyper_heads:HyperHeads",
            summary="A hyper-network makes each task's head from an embedding; a new task is new rows of it.",
            source="Ha et al., HyperNetworks, ICLR 2017, section 3.1",
        ),
    ],
)
