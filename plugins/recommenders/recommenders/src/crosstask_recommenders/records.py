"""What the stage `recommend` finds."""

from __future__ import annotations

import attrs

from crosstask.options import record

METRICS = {"rmse": False, "mae": False, "auc": True, "ndcg": True, "hit": True}
"""Whether more is better."""


@record
class ColdStartScores:
    """A recommender with so many support ratings of each user. None: not a metric of this feedback."""

    recommender: str
    support: int
    rmse: float | None
    mae: float | None
    auc: float | None
    ndcg: float | None
    hit: float | None
    baseline: bool = False
    seconds: float = 0.0
    """Of the CPU, for adapting to a user and scoring their items, the mean over users."""


@record
class RecommendResult:
    """Recommenders on users whom they have never seen."""

    task: str
    feedback: str
    train_users: int
    test_users: int
    items: int
    top: int
    negatives: int
    scores: tuple[ColdStartScores, ...] = ()
    fit_seconds: dict[str, float] = attrs.field(factory=dict)

    @property
    def main(self) -> str:
        """The metric by which recommenders are compared: `rmse` of ratings, `ndcg` of what was taken."""
        return "rmse" if self.feedback == "explicit" else "ndcg"

    @property
    def supports(self) -> tuple[int, ...]:
        """Numbers of support ratings."""
        return tuple(dict.fromkeys(each.support for each in self.scores))

    @property
    def names(self) -> tuple[str, ...]:
        """The recommenders, baselines last."""
        named = {each.recommender: each.baseline for each in self.scores}
        return tuple(sorted(named, key=lambda name: named[name]))

    def of(self, recommender: str, support: int) -> ColdStartScores:
        """The scores of one."""
        return next(s for s in self.scores if (s.recommender, s.support) == (recommender, support))

    def best_baseline(self, support: int, metric: str | None = None) -> ColdStartScores | None:
        """The best baseline by a metric (the main one); None where there is none."""
        by = metric or self.main
        found = [s for s in self.scores if s.baseline and s.support == support and getattr(s, by) is not None]
        pick = max if METRICS[by] else min
        return pick(found, key=lambda each: getattr(each, by)) if found else None

    def beaten(self, recommender: str, support: int, metric: str | None = None) -> bool | None:
        """Whether a recommender is better than every baseline; None where that cannot be said."""
        by = metric or self.main
        own, best = getattr(self.of(recommender, support), by), self.best_baseline(support, by)
        if own is None or best is None:
            return None
        against: float = getattr(best, by)
        return bool(own > against if METRICS[by] else own < against)
