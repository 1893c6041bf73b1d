"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="perceiver",
    extensions=[
        Extension(
            "loss",
            "perceiver",
            "crosstask_perceiver.perceiver:Perceiver",
            summary="Reconstruction through a vector-quantised bottleneck",
            source="van den Oord, Vinyals, Kavukcuoglu 2017, Neural discrete representation learning, arXiv:1711.00937",
        ),
    ],
    api=(2, 0),
)
