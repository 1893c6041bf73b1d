"""The `optuna` search."""

from __future__ import annotations

import contextlib
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


@component
class OptunaSearch(Search):
    """A sampler of Optuna: `tpe`, tree-structured Parzen estimators (Bergstra et al. 2011), or `gp`, a Gaussian process
    with the logarithm of expected improvement (slower: some 100 ms per proposal).

    The study is made anew from the trials for every proposal, with a sampler seeded by the run: proposals follow from
    the trials and the seed alone. Failed trials count as worse than all others for `gp`, and as failed for `tpe`, which
    passes them over. Unless `repeats`, a point that was tried is asked for again, and drawn at random if it comes up
    again; points that the space's constraints forbid likewise.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})

    sampler: str = option("tpe", choices=("tpe", "gp"), help="Optuna's sampler")
    initial: int = option(10, ge=1, help="random points before the sampler's model is asked")
    multivariate: bool | None = option(None, help="tpe: one estimator over all parameters, or one for each")
    repeats: bool = option(False, help="propose points again that were tried")

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        seed = self.context.seed_for("optuna", len(trials))
        tried = {space.key(trial.point) for trial in trials}
        with quiet():
            study = optuna.create_study(direction="maximize", sampler=self._sampler(seed % 2**32))
            study.add_trials([_frozen(space, trial) for trial in trials])
            for _ in range(10 if self.sampler == "tpe" else 2):
                point = _asked(space, study)
                if space.allows(point) and (self.repeats or space.key(point) not in tried):
                    return point
        return space.fresh(np.random.default_rng(seed), tried)

    def _sampler(self, seed: int) -> BaseSampler:
        if self.sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=self.initial)
        return TPESampler(seed=seed, n_startup_trials=self.initial, multivariate=self.multivariate, constant_liar=True)


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
    """A parameter as Optuna has it; choices by their place, because Optuna takes no lists."""
    if parameter.choices:
        return CategoricalDistribution(range(len(parameter.choices)))
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _frozen(space: SearchSpace, trial: Trial) -> FrozenTrial:
    kinds = {name: distribution(space.parameters[name]) for name in trial.point}
    values = {}
    for name, value in trial.point.items():
        choices = space.parameters[name].choices
        values[name] = choices.index(value) if choices else value
    states = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL, "running": TrialState.RUNNING}
    state = states[trial.status]
    return create_trial(state=state, params=values, distributions=kinds, value=trial.value)


def _asked(space: SearchSpace, study: optuna.Study) -> Point:
    """A new point: active parameters one after the other, as Optuna's own define-by-run does."""
    asked = study.ask()
    made: Point = {}
    for name, parameter in space.parameters.items():
        if not space.active(name, made):
            continue
        if parameter.choices:
            made[name] = parameter.choices[asked.suggest_categorical(name, range(len(parameter.choices)))]
        elif parameter.integer:
            made[name] = asked.suggest_int(name, int(parameter.low or 0), int(parameter.high or 0), log=parameter.log)
        else:
            made[name] = asked.suggest_float(name, parameter.low or 0.0, parameter.high or 0.0, log=parameter.log)
    return made
