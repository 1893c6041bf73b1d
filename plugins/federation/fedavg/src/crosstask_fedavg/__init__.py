"""Federated averaging."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_fedavg.fedavg import FedAvg

__all__ = ["FedAvg"]

__getattr__ = lazily(__name__, {"FedAvg": "fedavg"})
