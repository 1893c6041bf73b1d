"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="adapter-tuning",
    api=(2, 0),
    formerly=["crosstask-adapter"],
    extensions=[
        Extension(
            "transfer",
            "adapter",
            "crosstask_adapter_tuning.adapter:AdapterTransfer",
            summary="Trains a head and an adapter, any registered one, beside the frozen source model",
            source="Houlsby et al. (2019), Parameter-Efficient Transfer Learning for NLP, ICML",
        ),
        Extension(
            "recipe",
            "adapter-transfer",
            "crosstask_adapter_tuning:adapter_transfer.toml",
            summary="What adapters learn of other digit tasks, in half a minute",
        ),
    ],
)
