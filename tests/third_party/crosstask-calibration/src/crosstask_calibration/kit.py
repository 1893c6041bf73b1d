"""Checks of calibrators."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from crosstask.testing.kit import Call, Kit, claims, expect
from torch import Tensor
from torch.nn.functional import cross_entropy


class CalibratorKit(Kit):
    """A calibrator lowers the loss of overconfident logits, and keeps shapes."""

    point = "calibrator"
    capabilities: ClassVar[frozenset[str]] = frozenset({"keeps_the_answer"})

    def inputs(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(90) % 3
        logits = 6 * torch.randn(90, 3, generator=generator) + 3 * torch.nn.functional.one_hot(labels, 3)
        return {"logits": logits, "labels": labels}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("fit", **inputs)(inputs["logits"])

    def mapped(self) -> tuple[Tensor, Tensor, Tensor]:
        inputs = self.inputs()
        return inputs["logits"], inputs["labels"], self.answer()

    def check_shape(self) -> None:
        """Calibrated logits have the shape of the logits."""
        logits, _, mapped = self.mapped()
        expect(mapped.shape == logits.shape, f"{self.name}: {tuple(logits.shape)} became {tuple(mapped.shape)}")

    def check_lowers_the_loss(self) -> None:
        """On what it was fitted on, the cross-entropy is not above that of the logits."""
        logits, labels, mapped = self.mapped()
        before, after = float(cross_entropy(logits, labels)), float(cross_entropy(mapped, labels))
        expect(after <= before + 1e-6, f"{self.name}: the loss rose from {before:.3f} to {after:.3f}")

    @claims("keeps_the_answer")
    def check_keeps_the_answer(self) -> None:
        """The largest logit stays the largest."""
        logits, _, mapped = self.mapped()
        expect(torch.equal(logits.argmax(1), mapped.argmax(1)), f"{self.name} changes answers")
