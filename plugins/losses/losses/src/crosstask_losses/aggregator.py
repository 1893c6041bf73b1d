"""From what a model gave to losses with names, one for each objective, as a balancer takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, SupportsIndex, overload

import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, PluginError, RunError, UnknownComponentError, nearest, of_kind
from crosstask.options import structure
from crosstask_losses.contract import Objective
from crosstask_losses.given import Given, check_observations
from crosstask_losses.schedules import weight_of

USUAL = ("elbo", "perceiver", "predictive")
"""The objectives that are on where none are named; `adversarial` must be."""

COMMON = {
    "beta": 1.0, "lambda_recon": 1.0, "entropy_weight": 0.1, "lambda_gram": 0.05, "lambda_att_dyn": 0.1,
    "lambda_gan": 0.1,
}  # fmt: skip
"""Weights that a call may name whichever of the built-in objectives are on, with their defaults."""


class TaskLosses(list[Tensor]):
    """The losses of a step, one scalar for each objective that is on: a list, whose items have names.

        total = sum(task_losses)
        RGB().backward(task_losses)
        task_losses.names, task_losses["perceiver"], "elbo" in task_losses, task_losses.named

    Whoever asks for a mapping finds one, by `keys`, `values` and `items`: so a balancer keeps what it knows of each
    objective by its name, and names it where something is wrong. Iterating gives the losses, as with any list.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__(named.values())
        self.names = tuple(named)

    @property
    def named(self) -> dict[str, Tensor]:
        """As a plain dict."""
        return dict(zip(self.names, self, strict=True))

    def keys(self) -> tuple[str, ...]:
        """The names of the objectives."""
        return self.names

    def values(self) -> list[Tensor]:
        """The losses."""
        return list(self)

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """Pairs of name and loss."""
        return self.named.items()

    def get(self, name: str, default: Any = None) -> Any:
        """The loss of an objective, or `default` where it is not on."""
        return self[name] if name in self.names else default

    def __contains__(self, item: object) -> bool:
        """Whether it is the name of an objective that is on, or one of the losses."""
        return item in self.names if isinstance(item, str) else any(item is loss for loss in self)

    @overload
    def __getitem__(self, at: SupportsIndex | str) -> Tensor: ...

    @overload
    def __getitem__(self, at: slice) -> list[Tensor]: ...

    def __getitem__(self, at: SupportsIndex | slice | str) -> Tensor | list[Tensor]:
        """By place, or by the objective's name. DataError for a name that there is not."""
        if not isinstance(at, str):
            return super().__getitem__(at)
        if at not in self.names:
            raise DataError(f"no objective {at!r} is on{nearest(at, self.names)}")
        return super().__getitem__(self.names.index(at))

    def __repr__(self) -> str:
        return f"TaskLosses({', '.join(f'{name}={float(loss.detach()):.4g}' for name, loss in self.items())})"


# Who takes named losses asks `isinstance(losses, Mapping)`, then for `items()`; `torch.stack` and `sum` want a list.
Mapping.register(TaskLosses)


class LossAggregator:
    """Computes the terms of several objectives and adds up each objective's own.

        aggregator = LossAggregator()
        outputs = model(observations)
        losses, task_losses = aggregator.compute_losses(outputs=outputs, observations=observations, beta=0.5)
        RGB().backward(task_losses)

    `objectives`: names, tables with `use` and options, or components; or a mapping of such by the names that their
    losses are to have. Without any, `elbo`, `perceiver` and `predictive`. `weights`: numbers, or functions of the
    updates made so far (`WeightSchedule`), by name, for all terms with such a weight; others are as the objectives'
    options say. `off`: objectives and terms that are left out. `seed`: of what objectives draw.

    An objective that is off, or all of whose terms are, is left out of `task_losses`: there are fewer losses then. As
    they have names a balancer goes on with those that remain, and knows the other again when it is back.
    """

    def __init__(
        self,
        objectives: Iterable[Any] | Mapping[str, Any] | None = None,
        *,
        weights: Mapping[str, float | Callable[[int], float]] | None = None,
        off: Iterable[str] = (),
        seed: int = 0,
        context: Context | None = None,
    ) -> None:
        self.context = context or LocalContext(seed=seed)
        self.objectives: dict[str, Objective] = {}
        """By the names of their losses."""
        if isinstance(objectives, str):
            raise OptionError(f"LossAggregator: objectives must be several, in a list: [{objectives!r}]")
        chosen = USUAL if objectives is None else objectives
        pairs = chosen.items() if isinstance(chosen, Mapping) else [(None, each) for each in chosen]
        for name, each in pairs:
            self._add(name, each)
        if not self.objectives:
            raise OptionError("LossAggregator: there must be at least one objective")
        self.weights = dict(of_kind(weights or {}, Mapping, "LossAggregator: weights"))  # type: ignore[type-abstract]
        for name in self.weights:
            self._check_weight(name)
        self._off: set[str] = set()
        for name in structure(off, list[str], "LossAggregator: off"):
            self.switch(name, False)

    def _add(self, name: str | None, choice: Any) -> None:
        try:
            made = self.context.resolve("loss", choice)
        except UnknownComponentError as error:
            raise UnknownComponentError(f"LossAggregator: {error}") from None
        assert isinstance(made, Objective)
        called = name or made.name.rpartition(":")[2].rpartition(".")[2].lower()
        if called in self.objectives:
            raise OptionError(f"LossAggregator: two objectives are called {called!r}: name them, in a mapping")
        taken = {each: owner for owner, other in self.objectives.items() for each in _entries(other)}
        for entry in _entries(made):
            if entry in taken:
                raise OptionError(f"LossAggregator: {called!r} and {taken[entry]!r} both have a loss {entry!r}")
        self.objectives[called] = made

    # --- What is on

    def switch(self, name: str, on: bool = True) -> None:
        """Switch an objective or a term on or off, by its name."""
        known = [*self.objectives, *(term for each in self.objectives.values() for term in _parts(each))]
        if name not in known:
            raise OptionError(f"no objective or term {name!r}{nearest(name, known)}")
        (self._off.discard if on else self._off.add)(name)

    @property
    def off(self) -> list[str]:
        """The objectives and terms that are switched off."""
        return sorted(self._off)

    def terms(self) -> dict[str, dict[str, str]]:
        """Of each objective that is on the terms that are, with the names of their weights (after a minus: a bonus)."""
        found = {}
        for name, each in self.objectives.items():
            kept = {term: weight for term, weight in each.weighting.items() if term not in self._off}
            if name not in self._off and kept:
                found[name] = kept
        return found

    def parameters(self) -> list[nn.Parameter]:
        """Those of the objectives themselves, which the losses apart train; there may be more after the first step."""
        on = self.terms()
        return [p for name, each in self.objectives.items() if name in on for p in each.parameters()]

    def apart(self) -> list[str]:
        """The losses that train these parameters, and that no balancer is given."""
        on = self.terms()
        return [x for name in on for x in self.objectives[name].apart if x not in self._off]

    # --- Losses

    def compute_losses(
        self,
        outputs: Mapping[str, Any],
        observations: Tensor,
        actions: Tensor | None = None,
        *,
        step: int | None = None,
        **weights: float,
    ) -> tuple[dict[str, Tensor], TaskLosses]:
        """(All terms, sums, metrics and losses apart by name; the sums alone, for a balancer.)

        `observations` [B, T, C, H, W], `actions` [B, T, A], `outputs`: lists of tensors over the T time steps, as the
        objectives' `reads` say. `step`: the updates made so far, for weights that follow a schedule. `weights`, such as
        `beta=0.5`, go before all others for this call.

        DataError names a term for which there is no output, or one of another shape; RunError one that is not finite;
        OptionError an unknown weight.
        """
        check_observations(observations, actions, outputs)
        for name in weights:
            self._check_weight(name)
        on = self.terms()
        if not on:
            raise OptionError("compute_losses: all objectives are switched off")
        losses: dict[str, Tensor] = {}
        totals: dict[str, Tensor] = {}
        owners: dict[str, Objective] = {}
        for name, terms in on.items():
            objective = self.objectives[name]
            found = self._computed(objective, terms, outputs, observations, actions)
            values = self.weights_of(objective, step, weights)
            parts = [_weighted(found[term], values, weight) for term, weight in terms.items()]
            total = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
            first = {term: found[term] for term in terms}
            rest = {key: value for key, value in found.items() if key not in terms}
            losses |= {**first, objective.total: total, **rest}
            totals[name] = total
            owners |= dict.fromkeys([*found, objective.total], objective)
        _check_finite(losses, owners)
        return losses, TaskLosses(totals)

    def weights_of(
        self, objective: Objective, step: int | None, given: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """The weights of an objective's terms after `step` updates."""
        chosen = {**objective.weights(), **self.weights, **(given or {})}
        return {name: weight_of(name, chosen[name], step) for name in objective.weight_names()}

    def weights_at(self, step: int | None) -> dict[str, float]:
        """All weights of what is on after `step` updates, by name; those of different objectives may share one."""
        found: dict[str, float] = {}
        for name, terms in self.terms().items():
            used = {weight.removeprefix("-") for weight in terms.values()}
            values = self.weights_of(self.objectives[name], step)
            found |= {weight: value for weight, value in values.items() if weight in used}
        return found

    def _computed(
        self,
        objective: Objective,
        terms: Mapping[str, str],
        outputs: Mapping[str, Any],
        observations: Tensor,
        actions: Tensor | None,
    ) -> dict[str, Tensor]:
        given = Given(outputs, observations, actions, objective.reads, objective.origin)
        found = {}
        for name in (*terms, *objective.metrics, *objective.apart):
            if name in self._off:
                continue
            given.term = name
            with torch.set_grad_enabled(torch.is_grad_enabled() and name not in objective.metrics):
                value = self.context.call(objective, "term", name=name, given=given)
            if not isinstance(value, Tensor) or value.ndim != 0 or not value.is_floating_point():
                got = (
                    f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                )
                raise PluginError(f"{objective.origin}: term {name!r} must be a scalar, got {got}")
            found[name] = value.detach() if name in objective.metrics else value
        return found

    def _check_weight(self, name: str) -> None:
        known = dict.fromkeys([*(w for each in self.objectives.values() for w in each.weight_names()), *COMMON])
        if name not in known:
            raise OptionError(f"no weight {name!r}{nearest(name, known)}")

    # --- Going on later

    def state_dict(self) -> dict[str, Any]:
        """What the objectives remember, by name: a discriminator's weights, for instance."""
        return {name: each.state_dict() for name, each in self.objectives.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. DataError if it is of other objectives."""
        if set(state) != set(self.objectives):
            raise DataError(f"the state is of objectives {sorted(state)}, there are {sorted(self.objectives)}")
        for name, each in self.objectives.items():
            each.load_state_dict(state[name])


def _parts(objective: Objective) -> Iterator[str]:
    yield from (*objective.weighting, *objective.metrics, *objective.apart)


def _entries(objective: Objective) -> list[str]:
    """What it puts into the dict of losses."""
    return [*_parts(objective), objective.total]


def _weighted(term: Tensor, values: Mapping[str, float], weight: str) -> Tensor:
    factor = values[weight.removeprefix("-")]
    return term * (-factor if weight.startswith("-") else factor)


def _check_finite(losses: Mapping[str, Tensor], owners: Mapping[str, Objective]) -> None:
    """RunError names the first that is not finite: terms come before their sum."""
    values = torch.stack([value.detach().double() for value in losses.values()])
    if bool(torch.isfinite(values).all()):  # one synchronisation for all
        return
    bad = int((~torch.isfinite(values)).nonzero()[0])
    name = list(losses)[bad]
    raise RunError(f"{owners[name].origin}: term {name!r} is {float(values[bad])}")
