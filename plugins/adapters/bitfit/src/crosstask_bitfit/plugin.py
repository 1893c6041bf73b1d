"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="bitfit",
    api=(2, 0),
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
