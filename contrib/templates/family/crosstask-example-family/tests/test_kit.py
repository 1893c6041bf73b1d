"""The kit catches what it says: each check has a wrong component, which fails no other."""

from __future__ import annotations

from torch import Tensor

from crosstask.testing.selftest import SelfTest
from crosstask_example_family.testing import ReferenceExampleFamily

wrong = SelfTest(ReferenceExampleFamily)


@wrong.caught_by("check_between_0_and_1")
class BelowZero(ReferenceExampleFamily):
    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        return 2 * super().measure(outputs, targets) - 1


@wrong.caught_by("check_right_answers_score_1")
class NeverSatisfied(ReferenceExampleFamily):
    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        return super().measure(outputs, targets) / 2


@wrong.caught_by("check_order_does_not_matter")
class FirstHalfOnly(ReferenceExampleFamily):
    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        half = len(targets) // 2
        return super().measure(outputs[:half], targets[:half])


@wrong.caught_by("check_only_answers_count")
class SureAnswersOnly(ReferenceExampleFamily):
    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        sure = outputs.max(dim=1).values > 1.0
        return super().measure(outputs[sure], targets[sure]) if bool(sure.any()) else 0.0


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
