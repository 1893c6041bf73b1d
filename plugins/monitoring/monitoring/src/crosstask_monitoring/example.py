import torch
from torch import Tensor

from crosstask import component, option
from crosstask_monitoring import Detector, Evidence, pooled, rows_of
from crosstask_monitoring.testing import accuracies


@component
class MovingAverage(Detector):
    """How far the mean of the last records lies below the reference, in standard errors."""

    window: int = option(5, ge=1, help="records of the mean")
    errors: float = option(4.0, gt=0, help="standard errors that are an alarm")

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        low, high = limits
        level, _ = pooled(reference)
        share = min(0.99, max(0.01, (level - low) / (high - low)))
        spread = (high - low) * (share * (1 - share)) ** 0.5
        found = []
        for end in range(1, len(stream) + 1):
            mean, count = pooled(stream[max(0, end - self.window) : end])
            found.append((level - mean) * count**0.5 / spread)
        return Evidence(statistic=tuple(found), threshold=self.errors)


detector = MovingAverage()
stream = torch.cat([accuracies(0.9, 30, seed=1), accuracies(0.6, 10, seed=2)])
evidence = detector.read(rows_of([0.9], 400), stream, (0.0, 1.0))
assert evidence.alarm is not None
assert 30 <= evidence.alarm < 35
