"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="bitfit",
    api=(1, 1),
    extensions=[
        Extension(
            "adapter",
            "bitfit",
            "crosstask_bitfit.bitfit:BitFit",
            summary="Trains the biases of a model and nothing else",
            source="Ben Zaken, Goldberg, Ravfogel (2022), BitFit, ACL",
        ),
    ],
)
