"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="wandb",
    api=(2, 0),
    extensions=[
        Extension(
            "observer",
            "wandb",
            "crosstask_wandb.wandb:Wandb",
            summary="Follows a run in Weights & Biases: losses, weights, conflicts, transfers, the graph, the report",
        ),
    ],
)
