"""Which predictor the known pairs speak for, how far it is off, and what it says."""

from __future__ import annotations

import math

import attrs
import numpy as np

from crosstask.learning.metrics import student_quantile
from crosstask_gnn.additive import additive
from crosstask_gnn.low_rank import low_rank, low_ranks
from crosstask_gnn.mean_z import mean_z
from crosstask_gnn.mixed import Design, Fitted, mixed
from crosstask_gnn.pairs import Array, Mask, Pairs
from crosstask_gnn.soft_impute import soft_impute
from crosstask_gnn.source_mean import source_mean, target_mean
from crosstask_gnn.training import Base, Forecast, Labels, Shape, enough, forecast, lessons

FEWEST = 8
"""Measured pairs below which nothing can be left out to choose by."""

LOW_RANK = "low-rank"

SIMPLE = {
    "source mean": source_mean,
    "target mean": target_mean,
    "additive": additive,
    "soft-impute": soft_impute,
    "mean z": mean_z,
    LOW_RANK: lambda pairs: low_rank(pairs).mean,
}
"""Predictors that look at one kind of evidence each."""

NETWORK, DECODER, MIXED = "gnn", "decoder without messages", "additive + estimates"
COMPLETED = "low-rank + estimates"


@attrs.frozen(eq=False)
class Vote:
    """Cross-validation on what is known: `errors`, root mean square by predictor; `weights` of those that are used."""

    errors: dict[str, float]
    weights: dict[str, float]

    @property
    def fallback(self) -> bool:
        """Whether the network was found to add nothing."""
        return NETWORK not in self.weights

    def __str__(self) -> str:
        return " + ".join(f"{weight:.2f} {name}" for name, weight in self.weights.items())


@attrs.frozen(eq=False)
class Prediction:
    """`mean` and `std` [n, n] (of what would be measured, its noise included), probabilities of the relation types
    [n, n, R] and difficulties [n] (None if no network was trained); `warm`: who was chosen for targets with something
    measured into them, `cold` for the others (None if there are none); `each`: every predictor's answer.
    """

    mean: Array
    std: Array
    warm: Vote
    cold: Vote | None
    relations: Array | None
    difficulty: Array | None
    each: dict[str, Array]
    note: str = ""

    @property
    def fallback(self) -> bool:
        """Whether the networks had no part in the answer, for targets with measurements."""
        return self.warm.fallback


def predict(
    pairs: Pairs,
    labels: Labels | None = None,
    shape: Shape | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    network: bool = True,
    device: str = "cpu",
) -> Prediction:
    """All pairs from those that are known.

    Every predictor is cross-validated with pairs left out, and for targets without a measurement with whole targets
    left out; the mixture that answers is chosen by the errors there (greedily, as in Caruana et al. 2004, section 2).
    Any predictor may answer alone, and the networks have a part only where they lower the errors. Standard errors are
    the mixed model's, plus how far the networks differ, scaled to the errors that were seen. With fewer than `FEWEST`
    measurements the mixed model answers, unchecked, and `note` says so. Of more than 150 tasks fewer folds and steps
    are made, of more than 400 fewer still.
    """
    labels, shape = labels or Labels.none(pairs.count), shape or Shape()
    design = Design.of(pairs)
    whole = mixed(pairs, design=design)
    known = int(pairs.measured.sum())
    if known < FEWEST:
        vote = Vote({}, {MIXED: 1.0})
        note = f"only {known} pairs were measured, of {FEWEST} needed to choose by: {MIXED}, unchecked"
        return Prediction(whole.mean, np.sqrt(whole.variance), vote, None, None, None, {MIXED: whole.mean}, note)
    if pairs.count > 150:
        folds, shape = min(folds, 3), attrs.evolve(shape, members=1, steps=min(shape.steps, 60))
    if pairs.count > 400:
        folds, shape = min(folds, 2), attrs.evolve(shape, steps=min(shape.steps, 30))
    rng = np.random.default_rng(seed)
    unknown = ~pairs.measured.any(0)
    warm = _Contest.of(pairs, _pair_folds(pairs, folds, rng), design)
    contests = [warm]
    if unknown.any() and (targets := _target_folds(pairs, folds, rng)):
        contests.append(_Contest.of(pairs, targets, design, whole_targets=True))
    answers = {name: method(pairs) for name, method in SIMPLE.items()} | {MIXED: whole.mean}
    completed = Base.completed(pairs, whole) if enough(pairs) else Base.plain(whole)
    if enough(pairs):
        answers[COMPLETED] = completed.mean
    found: Forecast | None = None
    if network:
        for contest in contests:
            fits = zip(contest.folds, contest.fits, strict=True)
            library = [lessons(pairs.without(fold), fit, design, rng, complete=contest.complete) for fold, fit in fits]
            base = completed if contest.complete else Base.plain(whole)
            given = (pairs, contest.folds, contest.bases, base, library, design, labels)
            made = forecast(*given, shape, seed, device)
            contest.enter(NETWORK, made.blind)
            contest.said[NETWORK], contest.among[NETWORK] = made.mean, made.variance
            plain = attrs.evolve(shape, layers=0, members=1)
            other = forecast(*given, plain, seed + 1, device)
            contest.enter(DECODER, other.blind)
            contest.said[DECODER], contest.among[DECODER] = other.mean, other.variance
            found = found or made
    votes = [contest.vote() for contest in contests]
    results = []
    for contest, vote in zip(contests, votes, strict=True):
        said = answers | contest.said
        mean = np.sum([weight * said[name] for name, weight in vote.weights.items()], axis=0)
        between = sum(weight * (said[name] - mean) ** 2 for name, weight in vote.weights.items())
        among = sum(weight * contest.among.get(name, 0.0) for name, weight in vote.weights.items())
        results.append((mean, np.sqrt(whole.variance + between + among) * contest.scale(vote)))
    (mean, std), cold = results[0], results[-1]
    if len(results) > 1:
        mean, std = np.where(unknown, cold[0], mean), np.where(unknown, cold[1], std)
    return Prediction(
        mean=mean,
        std=std,
        warm=votes[0],
        cold=votes[1] if len(votes) > 1 else None,
        relations=None if found is None else found.relations,
        difficulty=None if found is None else found.difficulty,
        each=answers | contests[0].said,
    )


@attrs.define(eq=False)
class _Contest:
    """Predictors, each asked for every fold without having seen it."""

    pairs: Pairs
    folds: list[Mask]
    fits: list[Fitted]
    bases: list[Base]
    blind: dict[str, Array]
    said: dict[str, Array]
    among: dict[str, Array]
    whole_targets: bool = False

    @classmethod
    def of(cls, pairs: Pairs, folds: list[Mask], design: Design, whole_targets: bool = False) -> _Contest:
        fits = [mixed(pairs.without(fold), design=design) for fold in folds]
        made = cls(pairs, folds, fits, [Base.plain(fit) for fit in fits], {}, {}, {}, whole_targets)
        parts = [pairs.without(fold) for fold in folds]
        for name, method in SIMPLE.items():
            answers = [each.mean for each in low_ranks(parts)] if name == LOW_RANK else [method(part) for part in parts]
            made.enter(name, np.stack(answers))
        made.enter(MIXED, np.stack([fit.mean for fit in fits]))
        if enough(pairs):
            bases = Base.all_completed(parts, fits)
            made.enter(COMPLETED, np.stack([base.mean for base in bases]))
            if made.complete:
                made.bases = bases
        return made

    @property
    def complete(self) -> bool:
        """Whether the networks start from the completed model: where it errs less than the mixed one alone, by more
        than a standard error of the difference.
        """
        if COMPLETED not in self.blind:
            return False
        lower = (self.blind[MIXED] - self.truth) ** 2 - (self.blind[COMPLETED] - self.truth) ** 2
        return bool(lower.mean() > lower.std() / math.sqrt(len(lower)))

    def enter(self, name: str, answers: Array) -> None:
        """`answers` [folds, n, n]."""
        self.blind[name] = self.left_out(answers)

    def left_out(self, answers: Array) -> Array:
        """The entries of each fold, from the answer without it, in one row."""
        return np.concatenate([answer[fold] for answer, fold in zip(answers, self.folds, strict=True)])

    @property
    def truth(self) -> Array:
        return np.concatenate([self.pairs.known[fold] for fold in self.folds])

    def vote(self, most: int = 20) -> Vote:
        """Weights on the predictors: of those that weigh all the evidence (the mixed model, completed where there is
        enough, the networks with and without messages) whichever errs least answers, or another one that errs less than
        it by more than three standard errors of the difference (of so many, one may by chance). Then others join, or
        get another share, one by one, if that lowers the mean squared error by more than two standard errors.
        """
        truth = self.truth

        def squares(names: list[str]) -> Array:
            return (np.mean([self.blind[name] for name in names], axis=0) - truth) ** 2

        def gain(now: Array, names: list[str], errors: int) -> float:
            lower = now - squares(names)
            return float(lower.mean() - errors * lower.std() / math.sqrt(len(lower)))

        base = COMPLETED if self.complete else MIXED
        able = [base, *(name for name in (DECODER, NETWORK) if name in self.blind)]
        chosen = min(([name] for name in able), key=lambda names: float(squares(names).mean()))
        now = squares(chosen)
        better = [name for name in self.blind if gain(now, [name], 3) > 0]
        if better:
            chosen = [min(better, key=lambda name: float(squares([name]).mean()))]
        while len(chosen) < most:
            now = squares(chosen)
            gains = {name: gain(now, [*chosen, name], 2) for name in self.blind}
            best = max(gains, key=lambda name: gains[name])
            if gains[best] <= 1e-4 * now.mean():
                break
            chosen = [*chosen, best]
        errors = {name: math.sqrt(float(squares([name]).mean())) for name in self.blind}
        return Vote(errors, {name: chosen.count(name) / len(chosen) for name in dict.fromkeys(chosen)})

    def scale(self, vote: Vote) -> float:
        """By how much the stated standard errors must be multiplied to cover what was left out as often as they say.

        From the 95 % quantile of the errors where there are 40 or more, from their mean square where there are fewer;
        widened as Student's distribution is for the few pairs, or whole targets, that it was learned from.
        """
        mean = np.sum([w * self.blind[name] for name, w in vote.weights.items()], axis=0)
        between = sum(w * (self.blind[name] - mean) ** 2 for name, w in vote.weights.items())
        stated = np.sqrt(self.left_out(np.stack([fit.variance for fit in self.fits])) + between)
        off = np.abs(mean - self.truth) / stated
        few = student_quantile(int(self.pairs.measured.any(0).sum()) - 1) / 1.96 if self.whole_targets else 1.0
        if len(off) < 40:
            few = max(few, student_quantile(len(off) - 1) / 1.96)
            return float(np.sqrt(np.mean(off**2))) * few
        return float(np.quantile(off, min(1.0, 0.95 * (1 + 1 / len(off))))) / 1.96 * few


def _pair_folds(pairs: Pairs, count: int, rng: np.random.Generator) -> list[Mask]:
    places = rng.permutation(np.argwhere(pairs.measured))
    return [_mask(pairs.count, places[start::count]) for start in range(min(count, len(places)))]


def _target_folds(pairs: Pairs, count: int, rng: np.random.Generator) -> list[Mask]:
    """Whole targets left out; none if fewer than four have anything measured into them."""
    targets = rng.permutation(np.flatnonzero(pairs.measured.any(0)))
    if len(targets) < 4:
        return []
    parts = [targets[start::count] for start in range(min(count, len(targets)))]
    return [pairs.measured & np.isin(np.arange(pairs.count), part) for part in parts]


def _mask(count: int, places: Array) -> Mask:
    mask = np.zeros((count, count), dtype=bool)
    mask[tuple(places.T)] = True
    return mask
