"""Sites share gradients, which a balancer combines."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_fed_gradients.gradients import FedGradients

__all__ = ["FedGradients"]

__getattr__ = lazily(__name__, {"FedGradients": "gradients"})
