"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="dann",
    api=(2, 0),
    extensions=[
        Extension(
            "alignment",
            "dann",
            "crosstask_dann.dann:DANN",
            summary="A critic of the domains, its gradient reversed",
            source="Ganin et al. (2016), Domain-Adversarial Training of Neural Networks",
        ),
    ],
)
