"""Starts that adapt at each site."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_fed_reptile.per_fedavg import PerFedAvg
    from crosstask_fed_reptile.reptile import FedReptile

__all__ = ["FedReptile", "PerFedAvg"]

__getattr__ = lazily(__name__, {"FedReptile": "reptile", "PerFedAvg": "per_fedavg"})
