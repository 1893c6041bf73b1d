"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="tensorboard",
    api=(2, 0),
    extensions=[
        Extension(
            "observer",
            "tensorboard",
            "crosstask_tensorboard.tensorboard:TensorBoard",
            summary="Follows a run in TensorBoard: losses, weights, conflicts, transfers, the graph, the report",
        ),
    ],
)
