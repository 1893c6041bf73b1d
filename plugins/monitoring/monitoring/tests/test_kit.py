"""The kit of detectors catches what it says: each check has a wrong detector, which fails no other."""

from __future__ import annotations

import math

import attrs
from torch import Tensor

from crosstask.testing import reference_registry
from crosstask.testing.selftest import SelfTest
from crosstask_monitoring.contract import Evidence
from crosstask_monitoring.testing import REFERENCE, ReferenceDetector

wrong = SelfTest(ReferenceDetector, registry=reference_registry(REFERENCE))


@wrong.caught_by("check_a_value_for_each_record")
class NothingSaidAtTheEnd(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        found = super().read(reference, stream, limits)
        return found if len(stream) else attrs.evolve(found, statistic=(0.0,))


@wrong.caught_by("check_looks_at_the_past_alone")
class LooksAhead(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        found = super().read(reference, stream, limits)
        return attrs.evolve(found, statistic=tuple(value - 0.01 * len(stream) for value in found.statistic))


@wrong.caught_by("check_finds_a_drop")
class NeverAlarmed(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        return attrs.evolve(super().read(reference, stream, limits), threshold=1e9)


@wrong.caught_by("check_no_alarm_for_better")
class AnyChange(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        found = super().read(reference, stream, limits)
        low, high = limits
        top = [value + (30.0 if score > high - 0.001 * (high - low) and n > 31 else 0.0)
               for n, (value, score) in enumerate(zip(found.statistic, stream[:, 0], strict=True))]  # fmt: skip
        return attrs.evolve(found, statistic=tuple(top))


@wrong.caught_by("check_healthy_streams")
class Nervous(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        found = super().read(reference, stream, limits)
        low, high = limits
        odd = [value + (99.0 if n > 15 and (score - low) < 0.85 * (high - low) else 0.0)
               for n, (value, score) in enumerate(zip(found.statistic, stream[:, 0], strict=True))]  # fmt: skip
        return attrs.evolve(found, statistic=tuple(odd))


@wrong.caught_by("check_samples_count")
class FewAreEnough(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        turned = stream.clone()
        turned[:, 1] = (1600 / stream[:, 1].double()).round().clamp_min(1)  # 40 stays 40
        self.check_scores(reference, stream, limits)
        return super().read(reference, turned, limits)


@wrong.caught_by("check_limits")
class SharesOnly(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        found = super().read(reference, stream, limits)
        return attrs.evolve(found, statistic=tuple(value - 0.001 * limits[0] for value in found.statistic))


@wrong.caught_by("check_bad_scores_refused")
class TakesAnything(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        if len(reference) and len(stream) and float(stream[:, 0].max()) > limits[1]:
            stream = stream.clamp_max(limits[1])
        return super().read(reference, stream, limits)


@wrong.caught_by("check_unbounded_refused")
class Guessing(ReferenceDetector):
    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        low, high = limits
        return super().read(reference, stream, (low if math.isfinite(low) else -100.0, high))


@wrong.caught_by("check_unbounded")
class ClaimsTooMuch(ReferenceDetector):
    capabilities = frozenset({"anytime", "unbounded"})

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        low, high = limits
        return super().read(reference, stream, (low if math.isfinite(low) else -1000.0, high))


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
