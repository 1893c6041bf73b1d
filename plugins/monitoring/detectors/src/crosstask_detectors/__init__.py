"""Detectors of drops in scores: e-process, e-detector, CUSUM."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_detectors.betting import EDetector, EProcess
    from crosstask_detectors.cusum import CUSUM, run_length, threshold_for

__all__ = ["CUSUM", "EDetector", "EProcess", "run_length", "threshold_for"]

__getattr__ = lazily(
    __name__, {"EProcess": "betting", "EDetector": "betting", "CUSUM": "cusum", "run_length": "cusum",
               "threshold_for": "cusum"},
)  # fmt: skip
