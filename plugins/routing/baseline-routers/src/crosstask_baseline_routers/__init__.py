"""Yardsticks of routing."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_baseline_routers.best_static import BestStatic
    from crosstask_baseline_routers.epsilon_greedy import EpsilonGreedy

__all__ = ["BestStatic", "EpsilonGreedy"]

__getattr__ = lazily(__name__, {"BestStatic": "best_static", "EpsilonGreedy": "epsilon_greedy"})
