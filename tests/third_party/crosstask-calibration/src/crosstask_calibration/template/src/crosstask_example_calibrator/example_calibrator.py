"""A calibrator with one option."""

import torch
from crosstask import component, option
from crosstask_calibration.contract import Calibrator
from torch import nn
from torch.nn.functional import cross_entropy


class Divided(nn.Module):
    """Logits divided by a number."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / self.by


@component
class ExampleCalibrator(Calibrator):
    """The best of a few temperatures."""

    capabilities = frozenset({"keeps_the_answer"})

    temperatures: tuple[float, ...] = option((1.0, 2.0, 4.0), gt=0, help="temperatures to try")

    def fit(self, logits: torch.Tensor, labels: torch.Tensor) -> nn.Module:
        return Divided(min(self.temperatures, key=lambda t: float(cross_entropy(logits / t, labels))))
