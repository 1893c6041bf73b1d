"""Temperature scaling."""

from __future__ import annotations

from typing import ClassVar

import torch
from crosstask import component, option
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from crosstask_calibration.contract import Calibrator
from crosstask_calibration.error import minimise


class Scaled(nn.Module):
    """Logits divided by a temperature."""

    def __init__(self, log_temperature: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_temperature", log_temperature)

    def forward(self, logits: Tensor) -> Tensor:
        return logits / self.log_temperature.to(logits).exp()


@component
class Temperature(Calibrator):
    """One temperature for all logits, by the likelihood of the held-out labels."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"keeps_the_answer"})
    most: float = option(20.0, gt=1, help="the largest temperature")

    def fit(self, logits: Tensor, labels: Tensor) -> nn.Module:
        log_temperature = torch.zeros((), dtype=logits.dtype, device=logits.device, requires_grad=True)
        minimise([log_temperature], lambda: cross_entropy(logits.detach() / log_temperature.exp(), labels))
        most = torch.tensor(self.most, dtype=logits.dtype).log()
        return Scaled(log_temperature.detach().clamp(-most, most))
