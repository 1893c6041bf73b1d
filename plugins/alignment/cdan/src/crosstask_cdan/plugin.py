"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="cdan",
    api=(2, 0),
    extensions=[
        Extension(
            "alignment",
            "cdan",
            "crosstask_cdan.cdan:CDAN",
            summary="A critic of features and predictions together, its gradient reversed",
            source="Long et al. (2018), Conditional Adversarial Domain Adaptation",
        ),
    ],
)
