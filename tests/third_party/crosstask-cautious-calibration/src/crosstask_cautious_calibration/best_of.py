"""A calibrator made of calibrators."""

import torch
from crosstask import Part, component, part
from crosstask_calibration.contract import Calibrator
from torch import nn
from torch.nn.functional import cross_entropy


@component
class BestOf(Calibrator):
    """Fits each part on every other row, and keeps the one with the lowest loss on the rest."""

    parts: tuple[Part, ...] = part("calibrator", ("temperature", "vector"), help="the calibrators to try")

    def fit(self, logits: torch.Tensor, labels: torch.Tensor) -> nn.Module:
        def held_out(each: Calibrator) -> float:
            with torch.no_grad():
                return float(cross_entropy(each.fit(logits[::2], labels[::2])(logits[1::2]), labels[1::2]))

        return min(self.made_of("parts"), key=held_out).fit(logits, labels)
