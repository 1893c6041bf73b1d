"""Checks of detectors."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from crosstask.errors import CrosstaskError
from crosstask.testing.kit import Call, Kit, claims, expect, refused
from crosstask_monitoring.contract import Evidence, rows_of
from crosstask_monitoring.testing import accuracies

LIMITS = (0.0, 1.0)


class DetectorKit(Kit):
    """It reads a stream of accuracies of 40 samples each, beside the reference of a model that is right in 90 %."""

    point = "detector"
    capabilities: ClassVar[frozenset[str]] = frozenset({"anytime", "run_length", "unbounded"})

    def inputs(self) -> dict[str, Any]:
        stream = torch.cat([accuracies(0.9, 15, seed=1), accuracies(0.5, 10, seed=2)])
        return {"reference": accuracies(0.9, 10, seed=3), "stream": stream, "limits": LIMITS}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("read", **inputs)

    def evidence(
        self, stream: Tensor, reference: Tensor | None = None, limits: tuple[float, float] = LIMITS
    ) -> Evidence:
        component = self.make()
        given = accuracies(0.9, 10, seed=3) if reference is None else reference
        with self.run(component) as run:
            found: Evidence = run.call(component, "read", reference=given, stream=stream, limits=limits)
        return found

    def check_a_value_for_each_record(self) -> None:
        """There is one finite number for each record, none for an empty stream, and a finite threshold."""
        found = self.evidence(self.inputs()["stream"])
        expect(len(found.statistic) == 25, f"{self.name}: {len(found.statistic)} values for 25 records")
        expect(all(map(math.isfinite, (*found.statistic, found.threshold))), f"{self.name}: not finite: {found}")
        empty = self.evidence(rows_of([]).reshape(0, 2))
        expect(not empty.statistic, f"{self.name}: of an empty stream it says {empty.statistic}")

    def check_looks_at_the_past_alone(self) -> None:
        """What it says after a record does not depend on later ones."""
        stream = self.inputs()["stream"]
        whole, part = self.evidence(stream), self.evidence(stream[:18])
        far = max(abs(a - b) for a, b in zip(whole.statistic, part.statistic, strict=False))
        same = math.isclose(whole.threshold, part.threshold)
        expect(far < 1e-6 and same, f"{self.name}: later records change what it said of earlier ones, by {far:.3g}")

    def check_finds_a_drop(self) -> None:
        """A drop from 90 % to 50 % is found, and not before it happened."""
        found = self.evidence(self.inputs()["stream"])
        expect(found.alarm is not None, f"{self.name}: a drop from 90 % to 50 % is not found in 10 records")
        expect(found.alarm is None or found.alarm >= 15, f"{self.name}: an alarm at {found.alarm}, the drop is at 15")

    def check_no_alarm_for_better(self) -> None:
        """A score that rises is no drop, however far, nor is one that stays as it is perfectly."""
        better = self.evidence(torch.cat([accuracies(0.9, 5, seed=4), accuracies(1.0, 40, seed=5)]))
        expect(better.alarm is None, f"{self.name}: an alarm at {better.alarm} where the score rises to 100 %")

    def check_healthy_streams(self) -> None:
        """Of thirty healthy streams of 30 records, at most two raise an alarm."""
        alarms = 0
        for seed in range(30):
            found = self.evidence(accuracies(0.9, 30, seed=100 + seed), accuracies(0.9, 10, seed=200 + seed))
            alarms += found.alarm is not None
        expect(alarms <= 2, f"{self.name}: {alarms} of 30 healthy streams raise an alarm")

    def check_samples_count(self) -> None:
        """The same low score of more samples is more evidence, or as much."""
        few, many = (self.evidence(rows_of([0.9, 0.7, 0.7], [40, n, n])).statistic[-1] for n in (20, 80))
        expect(many >= few, f"{self.name}: 0.7 of 80 samples is less evidence ({many:.3g}) than of 20 ({few:.3g})")

    def check_limits(self) -> None:
        """In other units, with other limits, it says the same."""
        stream, reference = self.inputs()["stream"], self.inputs()["reference"]

        def turned(rows: Tensor) -> Tensor:
            return torch.stack([10 + 5 * rows[:, 0], rows[:, 1]], dim=1)

        plain = self.evidence(stream, reference)
        other = self.evidence(turned(stream), turned(reference), (10.0, 15.0))
        far = max(abs(a - b) for a, b in zip(plain.statistic, other.statistic, strict=True))
        expect(far < 1e-5, f"{self.name}: with scores from 10 to 15 it says otherwise, by {far:.3g}")

    def check_bad_scores_refused(self) -> None:
        """Scores outside the limits, that are not finite, of no samples or no reference are refused."""
        good = accuracies(0.9, 10, seed=3)
        for what, stream, reference in (
            ("a score of 1.5", rows_of([1.5], 40), good),
            ("a score that is no number", rows_of([math.nan], 40), good),
            ("a score of no samples", rows_of([0.9], 0), good),
            ("no reference", good, good[:0]),
        ):
            with refused(f"{self.name}: {what}", CrosstaskError):
                self.evidence(stream, reference)

    def check_unbounded_refused(self) -> None:
        """Scores without limits are refused, unless it claims to read them."""
        if "unbounded" not in self.subject.component.capabilities:
            with refused(f"{self.name}: scores without limits", CrosstaskError):
                self.evidence(rows_of([-2.0], 40), rows_of([-1.0] * 10, 40), (-math.inf, 0.0))

    @claims("unbounded")
    def check_unbounded(self) -> None:
        """Of scores without limits, a drop of several standard deviations is found, and no rise."""
        generator = torch.Generator().manual_seed(0)
        noise = (0.1 * torch.randn(30, generator=generator)).tolist()
        reference = rows_of([-1 + each for each in noise[:10]], 20)
        low = self.evidence(rows_of([-2 + each for each in noise[10:]], 20), reference, (-math.inf, 0.0))
        high = self.evidence(rows_of([-0.5 + each for each in noise[10:]], 20), reference, (-math.inf, 0.0))
        expect(low.alarm is not None, f"{self.name}: an error that doubles is not found")
        expect(high.alarm is None, f"{self.name}: an alarm where the error is halved")
