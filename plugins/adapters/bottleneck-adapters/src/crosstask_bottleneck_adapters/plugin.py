"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="bottleneck-adapters",
    api=(2, 0),
    extensions=[
        Extension(
            "adapter",
            "bottleneck",
            "crosstask_bottleneck_adapters.bottleneck:Bottleneck",
            summary="A small network with a narrow hidden layer after each sublayer",
            source="Houlsby et al. (2019), Parameter-Efficient Transfer Learning for NLP, ICML",
        ),
        Extension(
            "adapter",
            "linear",
            "crosstask_bottleneck_adapters.bottleneck:LinearBottleneck",
            summary="Bottlenecks without a nonlinearity",
            source="Houlsby et al. (2019), Parameter-Efficient Transfer Learning for NLP, ICML",
        ),
        Extension(
            "adapter",
            "compacter",
            "crosstask_bottleneck_adapters.compacter:Compacter",
            summary="Bottlenecks whose matrices are sums of Kronecker products with factors that all layers share",
            source="Karimi Mahabadi, Henderson, Ruder (2021), Compacter, NeurIPS",
        ),
        Extension(
            "adapter",
            "ia3",
            "crosstask_bottleneck_adapters.ia3:IA3",
            summary="Rescales keys, values and the hidden features of feed-forward layers",
            source="Liu et al. (2022), Few-Shot Parameter-Efficient Fine-Tuning, NeurIPS",
        ),
        Extension(
            "adapter",
            "multimodal",
            "crosstask_bottleneck_adapters.multimodal:Multimodal",
            summary="Bottlenecks for text and for images, with a gate between them where layers see both",
            source="after Houlsby et al. (2019), ICML",
        ),
    ],
)
