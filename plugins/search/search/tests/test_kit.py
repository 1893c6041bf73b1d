"""The kit of searches catches what it says: each check has a wrong search, which fails no other."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np

from crosstask.errors import OptionError
from crosstask.options import state
from crosstask.testing.selftest import SelfTest
from crosstask_search.records import Trial
from crosstask_search.testing import ReferenceSearch

wrong = SelfTest(ReferenceSearch)


@wrong.caught_by("check_proposes_valid_points")
class BreaksTheConstraint(ReferenceSearch):
    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        point = super().propose(space, trials)
        return {**point, "bias": False} if "bias" in point and len(trials) > 10 else point


@wrong.caught_by("check_single_point")
class WantsVariety(ReferenceSearch):
    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        return super().propose(space, trials) if space.count() != 1 else {}


@wrong.caught_by("check_copes_with_failures")
class LooksAtFailures(ReferenceSearch):
    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        if "rate" in space.names:
            sum(trial.value for trial in trials if trial.status != "running")
        return super().propose(space, trials)


@wrong.caught_by("check_copes_with_running_trials")
class LooksAtRunningTrials(ReferenceSearch):
    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        if "rate" in space.names:
            sum(trial.value for trial in trials if trial.status != "failed")
        return super().propose(space, trials)


@wrong.caught_by("check_copes_with_equal_values")
class DividesByTheSpread(ReferenceSearch):
    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        values = [trial.value for trial in trials if trial.status == "done"]
        if len(values) == len(trials) > 2 and "rate" in space.names:
            1 / (max(values) - min(values))
        return super().propose(space, trials)


@wrong.caught_by("check_goes_on_where_it_was_stopped")
class OwnCount(ReferenceSearch):
    asked: int = attrs.field(init=False, default=0)

    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        self.asked += 1
        return super().propose(space, trials if self.asked > 1 or len(trials) < 2 else trials[1:])


@wrong.caught_by("check_blind_proposals")
class LooksThoughItSaysNot(ReferenceSearch):
    @property
    def blind(self) -> float:
        return 3

    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        if all(trial.status != "failed" for trial in trials):
            return super().propose(space, trials)
        rng = np.random.default_rng(self.context.seed_for("after a failure", len(trials)))
        return dict(space.fresh(rng, {space.key(trial.point) for trial in trials}))


@wrong.caught_by("check_begins_anew")
class NeverForgets(ReferenceSearch):
    best: float = state(0.0)

    def observe(self, trial: Any) -> None:
        self.best = max(self.best, trial.value or 0.0)

    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        return super().propose(space, trials if trials or not self.best else [*trials, *trials[:1]] or [RUNNING])


RUNNING = Trial(number=0, point={})


@wrong.caught_by("check_tries_every_point")
class TriesAgain(ReferenceSearch):
    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        again = [t.point for t in trials if t.status == "failed" and "rate" not in t.point]
        return dict(again[0]) if again else super().propose(space, trials)


@wrong.caught_by("check_no_valid_point_refused")
class ProposesTheInvalid(ReferenceSearch):
    def propose(self, space: Any, trials: Any) -> dict[str, Any]:
        try:
            return super().propose(space, trials)
        except OptionError:
            return {"a": "x", "b": 1}


@wrong.caught_by("check_needs_a_task")
class NeedsNoTask(ReferenceSearch):
    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats", "networks"})


def proposes_the_first(space: Any, trials: Any) -> dict[str, Any]:
    return dict(next(iter(space.sample(np.random.default_rng(0)))))


@wrong.caught_by("check_agrees_with_twin", twin=proposes_the_first)
class SearchUnlikeItsTwin(ReferenceSearch):
    pass


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
