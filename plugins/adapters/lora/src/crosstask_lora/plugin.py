"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="lora",
    api=(2, 0),
    extensions=[
        Extension(
            "adapter",
            "lora",
            "crosstask_lora.lora:LoRA",
            summary="Adds a product of two narrow matrices to the weights of linear, conv, embedding, attention layers",
            source="Hu et al. (2022), LoRA, ICLR",
            default=True,
        ),
    ],
)
