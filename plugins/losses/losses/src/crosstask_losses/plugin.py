"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    "losses",
    api=(2, 0),
    points=[
        Point(
            "loss",
            "crosstask_losses.contract:Objective",
            kit="crosstask_losses.kit:ObjectiveKit",
            template="crosstask_losses:template",
            summary="What a model is to be good at: terms with names and weights, one loss for a balancer",
        )
    ],
    extensions=[
        Extension(
            "stage",
            "losses",
            "crosstask_losses.stage:Losses",
            summary="A model of one's own trained on several objectives at once, their conflicts measured",
        ),
        Extension(
            "command",
            "demo-balancing",
            "crosstask_losses.cli:balancing",
            summary="Balance gradients that conflict, made up so that the right answer is known.",
        ),
    ],
)
