"""The manifest: names the component, imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="multimodal",
    api=(2, 0),
    extensions=[
        Extension(
            "sharing",
            "multimodal",
            "crosstask_multimodal.multimodal:MultiModal",
            summary="Attention between the modalities of a sample, and of each task over them.",
            source="Vaswani et al., Attention is all you need, NeurIPS 2017, section 3.2",
        ),
        Extension(
            "recipe",
            "multimodal",
            "crosstask_multimodal:recipes/multimodal.toml",
            summary="Three tasks over pictures that come as numbers, as words and as an id",
        ),
    ],
)
