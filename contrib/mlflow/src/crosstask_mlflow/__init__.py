"""MLflow follows runs of crosstask."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_mlflow.mlflow import MLflow

__all__ = ["MLflow"]

__getattr__ = lazily(__name__, {"MLflow": "mlflow"})
