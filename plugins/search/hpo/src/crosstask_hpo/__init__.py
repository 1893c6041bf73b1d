"""Hyper-parameters."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_hpo.adaptive_optimizer import AdaptiveOptimizer
    from crosstask_hpo.bayesian_optimizer import BayesianOptimizer
    from crosstask_hpo.optuna_search import OptunaSearch

_PUBLIC = {
    "AdaptiveOptimizer": "adaptive_optimizer",
    "BayesianOptimizer": "bayesian_optimizer",
    "OptunaSearch": "optuna_search",
}

__all__ = [*_PUBLIC]

__getattr__ = lazily(__name__, _PUBLIC)
