"""Which strategy for which task, learned from the runs of a store."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_strategist.history import Trial
    from crosstask_strategist.regression import Contrasts
    from crosstask_strategist.strategist import LearnedStrategist

__all__ = ["Contrasts", "LearnedStrategist", "Trial"]

__getattr__ = lazily(__name__, {"Contrasts": "regression", "LearnedStrategist": "strategist", "Trial": "history"})
