"""Transferability estimators. The functions are in the modules: `from crosstask_estimators.logme import logme`."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_estimators.cka import CKA
    from crosstask_estimators.fisher import Fisher
    from crosstask_estimators.gbc import GBC
    from crosstask_estimators.hscore import HScore
    from crosstask_estimators.knn import KNN
    from crosstask_estimators.leep import LEEP
    from crosstask_estimators.logme import LogME
    from crosstask_estimators.mean_z import MeanZ
    from crosstask_estimators.model_similarity import ModelSimilarity
    from crosstask_estimators.nce import NCE
    from crosstask_estimators.ridge import Ridge
    from crosstask_estimators.transrate import TransRate

__all__ = [
    "CKA",
    "GBC",
    "KNN",
    "LEEP",
    "NCE",
    "Fisher",
    "HScore",
    "LogME",
    "MeanZ",
    "ModelSimilarity",
    "Ridge",
    "TransRate",
]

_ELSEWHERE = {"MeanZ": "mean_z", "ModelSimilarity": "model_similarity"}

__getattr__ = lazily(__name__, {name: _ELSEWHERE.get(name, name.lower()) for name in __all__})
