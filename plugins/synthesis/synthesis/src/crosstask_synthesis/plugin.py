"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="synthesis",
    api=(2, 0),
    extensions=[
        Extension(
            "stage",
            "synthesis",
            "crosstask_synthesis.stage:Synthesis",
            summary="A model for an unseen task, with the score that can be expected of it",
        ),
        Extension(
            "command",
            "synthesize",
            "crosstask_synthesis.cli:command",
            summary="Make a model for an unseen task without training it.",
        ),
    ],
)
