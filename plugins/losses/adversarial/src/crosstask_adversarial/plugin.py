"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="adversarial",
    extensions=[
        Extension(
            "loss",
            "adversarial",
            "crosstask_adversarial.adversarial:Adversarial",
            summary="A discriminator that tells fakes from observations, and a generator that deceives it",
            source="Goodfellow et al. 2014, arXiv:1406.2661; hinge arXiv:1705.02894; least squares arXiv:1611.04076",
        ),
    ],
    api=(2, 0),
)
