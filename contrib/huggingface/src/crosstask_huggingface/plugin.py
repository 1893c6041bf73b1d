"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="huggingface",
    api=(2, 0),
    extensions=[
        Extension(
            "source",
            "huggingface",
            "crosstask_huggingface.source:HuggingFaceSource",
            summary="Tasks from data sets that `datasets` saved to disk, tokenised",
        ),
    ],
)
