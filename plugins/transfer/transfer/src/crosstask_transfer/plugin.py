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
            summary="Which layers carried a transfer, and what classes and skills brought it, by taking each away",
            source="Holm 1979, Scandinavian Journal of Statistics 6(2)",
        ),
        Extension(
            "stage",
            "advice",
            "crosstask_transfer.advice:Advice",
            summary="Which source to use for a target, with what score to expect",
            source="Allen (1974), prediction error left one out",
        ),
        Extension(
            "command",
            "advise",
            "crosstask_transfer.cli_advise:command",
            summary="Which task's model to learn a target from.",
        ),
        Extension(
            "command",
            "transfer",
            "crosstask_transfer.cli:command",
            summary="Measure the transfer between two tasks.",
        ),
    ],
)
