"""Checks of the point `example_family`: those that its contract adds to the checks of every component."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from crosstask.testing.kit import Call, Kit, claims, expect


class ExampleFamilyKit(Kit):
    """Scores lie between 0 and 1, are 1 for the best answers, and know no order of samples."""

    point = "example_family"
    capabilities: ClassVar[frozenset[str]] = frozenset({"answers_only"})

    def inputs(self) -> dict[str, Any]:
        """Outputs of which most are right, and classes of which one is rare."""
        generator = torch.Generator().manual_seed(0)
        targets = torch.tensor([0] * 30 + [1] * 24 + [2] * 6)
        outputs = torch.randn(60, 3, generator=generator) + 2 * torch.nn.functional.one_hot(targets, 3)
        return {"outputs": outputs, "targets": targets}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("measure", **inputs)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """What a new component answers in a run."""
        found: float = self.answer(inputs={"outputs": outputs, "targets": targets})
        return found

    def check_between_0_and_1(self) -> None:
        """Right, wrong and random answers score between 0 and 1."""
        inputs = self.inputs()
        for factor in (1.0, -1.0, 0.0):
            found = self.score(factor * inputs["outputs"], inputs["targets"])
            expect(0 <= found <= 1, f"{self.name}: a score of {found}")

    def check_right_answers_score_1(self) -> None:
        """Outputs that leave no doubt and are right score 1."""
        targets = self.inputs()["targets"]
        found = self.score(1000.0 * torch.nn.functional.one_hot(targets, 3), targets)
        expect(abs(found - 1) < 1e-6, f"{self.name}: right answers score {found}, expected 1")

    def check_order_does_not_matter(self) -> None:
        """Samples in another order score the same."""
        inputs = self.inputs()
        order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
        found = self.score(inputs["outputs"][order], inputs["targets"][order])
        known = self.score(**inputs)
        expect(abs(found - known) < 1e-6, f"{self.name}: {known} became {found} in another order of the samples")

    @claims("answers_only")
    def check_only_answers_count(self) -> None:
        """Outputs that are half as large score the same: the largest stays the largest."""
        inputs = self.inputs()
        found, known = self.score(inputs["outputs"] / 2, inputs["targets"]), self.score(**inputs)
        expect(found == known, f"{self.name}: {known} became {found}, though no answer changed")
