"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="mlflow",
    api=(2, 0),
    extensions=[
        Extension(
            "observer",
            "mlflow",
            "crosstask_mlflow.mlflow:MLflow",
            summary="Follows a run in MLflow: losses, weights, conflicts, transfers, the graph, the report",
        ),
    ],
)
