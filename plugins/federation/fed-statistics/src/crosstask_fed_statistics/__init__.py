"""Heads in closed form from sums that sites share."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_fed_statistics.statistics import FedStatistics

__all__ = ["FedStatistics"]

__getattr__ = lazily(__name__, {"FedStatistics": "statistics"})
