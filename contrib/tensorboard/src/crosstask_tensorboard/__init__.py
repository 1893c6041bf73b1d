"""TensorBoard follows runs of crosstask."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_tensorboard.tensorboard import TensorBoard

__all__ = ["TensorBoard"]

__getattr__ = lazily(__name__, {"TensorBoard": "tensorboard"})
