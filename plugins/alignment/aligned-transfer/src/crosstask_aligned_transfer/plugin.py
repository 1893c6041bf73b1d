"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="aligned-transfer",
    api=(2, 0),
    extensions=[
        Extension(
            "transfer",
            "aligned",
            "crosstask_aligned_transfer.aligned:AlignedTransfer",
            summary="Fine-tuning that keeps the target's features like those of the source's inputs",
        ),
    ],
)
