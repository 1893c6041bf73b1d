"""The `optuna` search."""

from __future__ import annotations

import contextlib
import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from crosstask.options import component, option
from crosstask_search.contract import Search
from crosstask_search.parameter import Parameter
from crosstask_search.records import Trial
from crosstask_search.space import Point, SearchSpace

_MOST = 2**31
"""Whole numbers of a range that Optuna is told as such: its samplers fail at numbers that no float tells apart."""

_ASKED = 10
"""How often TPE is asked for one proposal that is to be a new point."""


@component
class OptunaSearch(Search):
    """A sampler of Optuna: `tpe`, tree-structured Parzen estimators (Bergstra et al. 2011), or `gp`, a Gaussian process
    with the logarithm of expected improvement (slower: some 100 ms per proposal).

    The study is made anew from the trials for every proposal, with a sampler seeded by the run: proposals follow from
    the trials and the seed alone. Unless `repeats`, a point that was tried is asked for again, and drawn at random if
    it comes up again; points that the space's constraints forbid likewise.

    Optuna passes failed trials over, and proposes their neighbours again and again. Here they count where they lie
    together (see `clustered`), and not where they fail by chance: for `tpe` as pruned ones, which are worse than all
    that are done; for `gp` as breaking a constraint, whose probability it models, with the median of the values, which
    bends the model of the values least.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})
    results_version: ClassVar[int] = 2

    sampler: str = option("tpe", choices=("tpe", "gp"), help="Optuna's sampler")
    initial: int = option(10, ge=1, help="random points before the sampler's model is asked")
    multivariate: bool | None = option(None, help="tpe: one estimator over all parameters, or one for each")
    repeats: bool = option(False, help="propose points again that were tried")

    @property
    def blind(self) -> float:
        # what TPE was asked before for the same proposal counts as a trial, too
        return self.initial if self.sampler == "gp" else max(0, self.initial - _ASKED + 1)

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        seed = self.context.seed_for("optuna", len(trials))
        tried = {space.key(trial.point) for trial in trials}
        against = clustered(space, trials)
        with quiet():
            study = optuna.create_study(direction="maximize", sampler=self._sampler(seed % 2**32, against))
            study.add_trials(self._told(space, trials, against))
            for _ in range(_ASKED if self.sampler == "tpe" else 2):
                point = _asked(space, study)
                if space.allows(point) and (self.repeats or space.key(point) not in tried):
                    return point
        return space.fresh(np.random.default_rng(seed), tried)

    def _told(self, space: SearchSpace, trials: Sequence[Trial], against: bool) -> list[FrozenTrial]:
        """The trials as the sampler is to see them; `against`: failed ones are to count."""
        values = [trial.value for trial in trials if trial.value is not None]
        failed = sum(trial.status == "failed" for trial in trials)
        if not against:
            return [_frozen(space, trial, TrialState.FAIL) for trial in trials]
        if self.sampler == "gp":
            return [_frozen(space, trial, TrialState.COMPLETE, statistics.median(values), True) for trial in trials]
        # Of fewer done ones than TPE takes for the good ones it would take failed ones for good, too.
        state = TrialState.PRUNED if len(values) >= _good(len(values) + failed) else TrialState.FAIL
        return [_frozen(space, trial, state) for trial in trials]

    def _sampler(self, seed: int, constrained: bool = False) -> BaseSampler:
        if self.sampler == "gp":
            # Optuna 4 asks a function for the constraints, which from 5 on it reads from the trials
            asked: dict[str, Any] = (
                {"constraints_func": _broken} if constrained and not hasattr(FrozenTrial, "set_constraint") else {}
            )
            return GPSampler(seed=seed, n_startup_trials=self.initial, **asked)
        return TPESampler(seed=seed, n_startup_trials=self.initial, multivariate=self.multivariate, constant_liar=True)


def clustered(space: SearchSpace, trials: Sequence[Trial]) -> bool:
    """Whether trials fail where others fail, rather than by chance: among the three nearest of the failed ones are
    more failed ones than their share of all explains, by one and a half standard errors.
    """
    ended = [trial for trial in trials if trial.status != "running"]
    failed = np.array([trial.value is None for trial in ended], dtype=bool)
    count = len(ended)
    if count < 5 or failed.all() or failed.sum() < 2:
        return False
    places = space.encode([trial.point for trial in ended])
    named = np.array([bool(parameter.choices) for parameter in space.parameters.values()])
    apart = np.abs(places[:, None] - places[None])
    apart = np.where(named, apart > 0, apart)
    one_missing = np.isnan(places)[:, None] != np.isnan(places)[None]
    apart = np.where(one_missing, 1.0, np.nan_to_num(apart))
    far = (apart**2).sum(axis=2)
    np.fill_diagonal(far, np.inf)
    nearest = np.argsort(far[failed], axis=1, kind="stable")[:, :3]
    share = (failed.sum() - 1) / (count - 1)
    error = math.sqrt(share * (1 - share) / nearest.size)
    return bool(failed[nearest].mean() > share + 1.5 * error)


def _good(count: int) -> int:
    """How many of so many trials TPE takes for the good ones (Optuna's `default_gamma`)."""
    return min(math.ceil(0.1 * count), 25)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's messages and its warnings of experimental parts; both as before afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter as Optuna has it; choices by their place, because Optuna takes no lists, and more whole numbers than
    it can tell apart as a range of real ones.
    """
    if parameter.choices:
        return CategoricalDistribution(range(len(parameter.choices)))
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.integer and (parameter.size or 0) <= _MOST:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.log)


def _frozen(
    space: SearchSpace,
    trial: Trial,
    failed: TrialState,
    value: float | None = None,
    constrained: bool = False,
) -> FrozenTrial:
    """A trial as Optuna has it, a failed one in the state `failed` with `value`."""
    kinds = {name: distribution(space.parameters[name]) for name in trial.point}
    values = {}
    for name, chosen in trial.point.items():
        choices = space.parameters[name].choices
        values[name] = choices.index(chosen) if choices else chosen
    states = {"done": TrialState.COMPLETE, "failed": failed, "running": TrialState.RUNNING}
    state = states[trial.status]
    told = trial.value if trial.value is not None else value if state is TrialState.COMPLETE else None
    broken = {"constraints": [1.0 if trial.status == "failed" else -1.0]} if constrained else {}
    return create_trial(state=state, params=values, distributions=kinds, value=told, system_attrs=broken)


def _broken(trial: FrozenTrial) -> Sequence[float]:
    """Constraints of a trial: above 0 if it failed."""
    found: Sequence[float] = trial.system_attrs["constraints"]
    return found


def _asked(space: SearchSpace, study: optuna.Study) -> Point:
    """A new point: active parameters one after the other, as Optuna's own define-by-run does."""
    asked = study.ask()
    made: Point = {}
    for name, parameter in space.parameters.items():
        if not space.active(name, made):
            continue
        kind: Any = distribution(parameter)
        if isinstance(kind, CategoricalDistribution):
            place: Any = asked.suggest_categorical(name, kind.choices)
            made[name] = parameter.choices[place]
        elif isinstance(kind, IntDistribution):
            made[name] = asked.suggest_int(name, kind.low, kind.high, log=kind.log)
        else:
            drawn = asked.suggest_float(name, kind.low, kind.high, log=kind.log)
            made[name] = min(round(drawn), int(parameter.high or 0)) if parameter.integer else drawn
    return made
