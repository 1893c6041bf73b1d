"""Scores of models over time: recorded, tested for a drop, healed by curricula, replaced only by better."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_monitoring.comparing import compare, mcnemar
    from crosstask_monitoring.contract import Detector, Evidence, lower_bound, pooled, rows_of, scaled, since
    from crosstask_monitoring.history import History
    from crosstask_monitoring.monitor import Monitor
    from crosstask_monitoring.records import Comparison, Entry, HealResult, Operation, Reading
    from crosstask_monitoring.strategies import MetaEngine, StrategyReceiver, read_strategy, strategy_fragment
    from crosstask_monitoring.surgery import CurriculumHealer, Surgery

_MODULES = {
    "comparing": ("compare", "mcnemar"),
    "contract": ("Detector", "Evidence", "lower_bound", "pooled", "rows_of", "scaled", "since"),
    "history": ("History",),
    "monitor": ("Monitor",),
    "records": ("Comparison", "Entry", "HealResult", "Operation", "Reading"),
    "strategies": ("MetaEngine", "StrategyReceiver", "read_strategy", "strategy_fragment"),
    "surgery": ("CurriculumHealer", "Surgery"),
}

__all__ = [
    "Comparison",
    "CurriculumHealer",
    "Detector",
    "Entry",
    "Evidence",
    "HealResult",
    "History",
    "MetaEngine",
    "Monitor",
    "Operation",
    "Reading",
    "StrategyReceiver",
    "Surgery",
    "compare",
    "lower_bound",
    "mcnemar",
    "pooled",
    "read_strategy",
    "rows_of",
    "scaled",
    "since",
    "strategy_fragment",
]

__getattr__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
