"""Weights & Biases follows runs of crosstask."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_wandb.wandb import Wandb

__all__ = ["Wandb"]

__getattr__ = lazily(__name__, {"Wandb": "wandb"})
