"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="transfer",
    api=(2, 0),
    extensions=[
        Extension(
            "stage",
            "explain",
            "crosstask_transfer.stage:Explain",
            summary="Which layers carried a transfer, by taking each away",
        ),
        Extension(
            "command",
            "transfer",
            "crosstask_transfer.cli:command",
            summary="Measure the transfer between two tasks.",
        ),
    ],
)
