"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="ewc",
    extensions=[
        Extension(
            "continual",
            "ewc",
            "crosstask_ewc.ewc:EWC",
            summary="Holds weights as firmly as the Fisher information says",
            source="Kirkpatrick et al. (2017), Overcoming catastrophic forgetting in neural networks",
        ),
        Extension(
            "continual",
            "mas",
            "crosstask_ewc.mas:MAS",
            summary="Holds weights that change the outputs, whatever the labels",
            source="Aljundi et al. (2018), Memory Aware Synapses",
        ),
    ],
    api=(2, 0),
)
