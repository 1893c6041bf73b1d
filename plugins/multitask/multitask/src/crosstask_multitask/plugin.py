"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="multitask",
    api=(2, 0),
    points=[
        Point(
            "sharing",
            "crosstask_multitask.sharing:Sharing",
            kit="crosstask_multitask.kit_sharing:SharingKit",
            template="crosstask_multitask:template_sharing",
            summary="One module that learns several tasks at once",
        ),
        Point(
            "sampler",
            "crosstask_multitask.sampler:Sampler",
            kit="crosstask_multitask.kit_sampler:SamplerKit",
            template="crosstask_multitask:template_sampler",
            summary="Which tasks take part in a step of joint training",
        ),
    ],
    extensions=[
        Extension(
            "stage",
            "multitask",
            "crosstask_multitask.stage:Multitask",
            summary="Tasks trained together in one module, beside each of them alone",
        ),
        Extension(
            "recipe",
            "sharing",
            "crosstask_multitask:recipes/sharing.toml",
            summary="Four tasks whose networks take of each other, and how much",
        ),
    ],
)
