"""What a search may choose from: parameters, spaces of their combinations, spaces of networks."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.errors import OptionError, nearest
from crosstask.learning.models import ModelSpec
from crosstask.options import build, option, record, structure, unstructure
from crosstask.records import Budget
from crosstask.tasks import TaskDescriptor

Point = dict[str, Any]
"""A value for each active parameter, by name."""

LISTED = 100_000
"""Spaces are listed (counted, searched for a valid point) up to so many points."""

TUNABLE = ("learning_rate", "batch_size", "optimizer", "weight_decay")
"""Fields of a `Budget` that a search may choose. Not its steps: every trial spends the same."""

_TRIES = 10_000


@record
class Parameter:
    """One dimension of a space: `choices`, or the range from `low` to `high` (both may be taken).

    `when` names other parameters and the values of theirs with which this one means something; with others it is left
    out of the point. In TOML a list is short for `choices`. OptionError if it is neither choices nor a range.
    """

    choices: tuple[Any, ...] = option((), help="the values it can take: numbers, strings, true, false, lists of them")
    low: float | None = option(None, help="smallest value of a range")
    high: float | None = option(None, help="largest value of a range")
    log: bool = option(False, help="equal factors of a range count the same, not equal differences")
    integer: bool = option(False, help="only whole numbers of a range")
    when: dict[str, tuple[Any, ...]] = option(factory=dict, help="parameters and their values that make it active")

    def __attrs_post_init__(self) -> None:
        ranged = self.low is not None or self.high is not None
        if bool(self.choices) == ranged:
            raise OptionError("Parameter: give either choices or a range (low and high)")
        if self.choices:
            if self.log or self.integer:
                raise OptionError("Parameter: log and integer are for ranges, not for choices")
            object.__setattr__(self, "choices", tuple(map(_hashable, self.choices)))
            if len(set(self.choices)) < len(self.choices):
                raise OptionError(f"Parameter: choices must differ, got {self.choices}")
            return
        if self.low is None or self.high is None:
            raise OptionError("Parameter: a range needs both low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise OptionError(f"Parameter: a range needs finite low <= high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise OptionError(f"Parameter: a range on a log scale must be above 0, got low = {self.low}")
        if self.integer and (self.low % 1 or self.high % 1):
            raise OptionError(f"Parameter: the ends of an integer range must be whole, got {self.low} and {self.high}")

    @classmethod
    def __structure__(cls, value: Any, where: str) -> Parameter:
        if isinstance(value, list | tuple):
            return build(cls, {"choices": value}, where)
        if not isinstance(value, Mapping):
            raise OptionError(
                f"{where} must be a list of choices or a table with choices, or low and high; got {value!r}"
            )
        return build(cls, value, where)

    @property
    def size(self) -> int | None:
        """How many values it can take; None for a range of real numbers."""
        if self.choices:
            return len(self.choices)
        low, high = self._range()
        return int(high - low) + 1 if self.integer or low == high else None

    def values(self) -> Sequence[Any]:
        """All its values. OptionError for a range of real numbers."""
        if self.size is None:
            raise OptionError(f"the range from {self.low} to {self.high} cannot be listed")
        if self.choices:
            return self.choices
        low, high = self._range()
        return range(int(low), int(high) + 1) if self.integer else (low,)

    def at(self, place: float) -> Any:
        """The value at a place in [0, 1]: each choice has an equal part, a range its own scale."""
        place = min(max(float(place), 0.0), 1.0)
        if self.choices:
            return self.choices[min(int(place * len(self.choices)), len(self.choices) - 1)]
        low, high = self._ends()
        value = low + place * (high - low)
        value = math.exp(value) if self.log else value
        least, most = self._range()
        return min(max(round(value), int(least)), int(most)) if self.integer else min(max(value, least), most)

    def place(self, value: Any) -> float:
        """The place of a value in [0, 1], the middle of its part: `at(place(value))` is the value again."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high = self._ends()
        value = math.log(value) if self.log else value
        return (value - low) / (high - low) if high > low else 0.5

    def _range(self) -> tuple[float, float]:
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def _ends(self) -> tuple[float, float]:
        """Ends of the range on its scale; an integer has its part half to each side."""
        half = 0.5 if self.integer else 0.0
        low, high = self._range()
        low, high = low - half, high + half
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def read(self, value: Any, where: str) -> Any:
        """A value as the parameter has it (lists become tuples). OptionError if it cannot take it."""
        value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else _hashable(value)
        if self.choices:
            for choice in self.choices:
                if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                    return choice
            raise OptionError(f"{where} cannot be {value!r}{nearest(value, map(str, self.choices))}")
        made = structure(value, int if self.integer else float, where)
        low, high = self._range()
        if not low <= made <= high:
            raise OptionError(f"{where} must be from {low:g} to {high:g}, got {value!r}")
        return made


@record
class SearchSpace:
    """Named parameters and which of their combinations are valid.

    A point is a dict with a value for every active parameter. It is valid unless it agrees with all that one of
    `forbidden` says (a parameter and the value, or a list of values, that it may not have together with the others),
    or `valid` (a function of the point, or `package.module:function`) says no. OptionError says which parameter is
    wrong and how.
    """

    parameters: dict[str, Parameter] = attrs.field(metadata={"help": "by name; those that `when` names come first"})
    forbidden: tuple[dict[str, Any], ...] = option((), help="combinations that may not be")
    valid: Any = option(None, help="function of a point, or package.module:function: whether it may be")

    def __attrs_post_init__(self) -> None:
        if not self.parameters:
            raise OptionError("a search space needs at least one parameter")
        known: dict[str, Parameter] = {}
        for name, parameter in self.parameters.items():
            for parent, values in parameter.when.items():
                if parent not in known:
                    more = "; it must come first" if parent in self.parameters else nearest(parent, known)
                    raise OptionError(f"parameter {name!r}: no parameter {parent!r} before it{more}")
                for value in values:
                    known[parent].read(value, f"parameter {name!r}: when.{parent}")
            known[name] = parameter
        for number, combination in enumerate(self.forbidden):
            for name, value in combination.items():
                if name not in known:
                    raise OptionError(f"forbidden[{number}]: no parameter {name!r}{nearest(name, known)}")
                for one in _several(value):
                    known[name].read(one, f"forbidden[{number}]: {name}")
            if not combination:
                raise OptionError(f"forbidden[{number}] is empty: it would forbid every point")
        if self.valid is not None and not callable(self.valid) and ":" not in str(self.valid):
            raise OptionError(f"valid must be a function or 'package.module:function', got {self.valid!r}")

    def __unstructure__(self) -> dict[str, Any]:
        named = self.valid
        if callable(named):
            named = f"{named.__module__}:{named.__qualname__}" if hasattr(named, "__qualname__") else repr(type(named))
        found = {"parameters": unstructure(self.parameters), "forbidden": unstructure(self.forbidden)}
        return found | ({"valid": named} if named is not None else {})

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    @functools.cached_property
    def finite(self) -> bool:
        """Whether it has no range of real numbers."""
        return all(p.size is not None for p in self.parameters.values())

    @functools.cached_property
    def _predicate(self) -> Callable[[Point], Any] | None:
        found = self.valid
        if isinstance(found, str):
            module, _, name = found.partition(":")
            found = getattr(importlib.import_module(module), name)
        return found  # type: ignore[no-any-return]

    def active(self, name: str, point: Mapping[str, Any]) -> bool:
        """Whether a parameter means something beside the values that a point has of those before it."""
        return all(parent in point and point[parent] in values for parent, values in self.parameters[name].when.items())

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Whether a complete point breaks no constraint."""
        for combination in self.forbidden:
            if all(name in point and point[name] in _several(value) for name, value in combination.items()):
                return False
        return self._predicate is None or bool(self._predicate(dict(point)))

    def check(self, point: Any, where: str = "point") -> Point:
        """The point with its values as the parameters have them, in their order.

        OptionError for a parameter that is unknown, missing, not active or has a wrong value, and for a point that is
        not valid.
        """
        if not isinstance(point, Mapping):
            raise OptionError(f"{where} must be a table of parameters, got {point!r}")
        for name in point:
            if name not in self.parameters:
                raise OptionError(f"{where}: no parameter {name!r}{nearest(name, self.names)}")
        made: Point = {}
        for name, parameter in self.parameters.items():
            if self.active(name, made):
                if name not in point:
                    raise OptionError(f"{where}: {name!r} is missing")
                made[name] = parameter.read(point[name], f"{where}: {name}")
            elif name in point:
                told = ", ".join(f"{parent} is {made.get(parent, 'left out')!r}" for parent in parameter.when)
                raise OptionError(f"{where}: {name!r} means nothing where {told}")
        if not self.allows(made):
            raise OptionError(f"{where}: {made} is not valid in this space")
        return made

    def contains(self, point: Any) -> bool:
        """Whether `check` accepts it."""
        try:
            self.check(point)
        except OptionError:
            return False
        return True

    def key(self, point: Mapping[str, Any]) -> tuple[Any, ...]:
        """Equal for equal points, and only for them; hashable. An inactive parameter counts as None."""
        return tuple(point.get(name) for name in self.names)

    def complete(self, part: Mapping[str, Any], rng: np.random.Generator) -> Point:
        """A point with what `part` says of parameters that are then active, and random values of the other active ones.

        It need not be valid: see `allows`.
        """
        made: Point = {}
        for name, parameter in self.parameters.items():
            if self.active(name, made):
                made[name] = part[name] if name in part else parameter.at(rng.random())
        return made

    def sample(self, rng: np.random.Generator, count: int = 1) -> list[Point]:
        """Random valid points: each active parameter uniform on its scale, invalid points drawn again.

        OptionError if no point of the space is valid.
        """
        found: list[Point] = []
        tries = 0
        while len(found) < count:
            point = self.complete({}, rng)
            if self.allows(point):
                found.append(point)
            elif (tries := tries + 1) % _TRIES == 0 and len(found) * 100 < tries:
                listed = self._listed
                if not listed:  # nothing listed: it may still be too large or infinite
                    raise OptionError(self._nothing())
                found += [listed[i] for i in rng.integers(len(listed), size=count - len(found))]
        return found

    def fresh(self, rng: np.random.Generator, tried: Collection[tuple[Any, ...]]) -> Point:
        """A random valid point whose `key` is not in `tried`; any valid one if all were tried."""
        for _ in range(100):
            point = self.sample(rng)[0]
            if self.key(point) not in tried:
                return point
        left = [p for p in self._listed if self.key(p) not in tried]
        return left[rng.integers(len(left))] if left else point

    @functools.cached_property
    def _listed(self) -> list[Point]:
        """Its points, if they can be listed; else none."""
        return list(self.points()) if self.finite and self._combinations() <= LISTED else []

    def _combinations(self) -> int:
        return math.prod(p.size or 0 for p in self.parameters.values())

    def points(self) -> Iterator[Point]:
        """All valid points, the last parameter changing fastest. OptionError if one is a range of real numbers."""
        return (point for point in self._tree({}, self.names) if self.allows(point))

    def _tree(self, made: Point, names: Sequence[str]) -> Iterator[Point]:
        if not names:
            yield made
            return
        name, rest = names[0], names[1:]
        if not self.active(name, made):
            yield from self._tree(made, rest)
            return
        for value in self.parameters[name].values():
            yield from self._tree({**made, name: value}, rest)

    @functools.cached_property
    def _count(self) -> int | None:
        if not self.finite:
            return None
        if not self.forbidden and self.valid is None and not any(p.when for p in self.parameters.values()):
            return self._combinations()
        listed = sum(1 for _ in itertools.islice(self._tree({}, self.names), LISTED + 1))
        return sum(1 for _ in self.points()) if listed <= LISTED else None

    def count(self) -> int | None:
        """How many valid points there are; None if they are infinitely many, or (with constraints or conditions) more
        than `LISTED` combinations would have to be listed to know.
        """
        return self._count

    def require_points(self) -> None:
        """OptionError if no point is valid."""
        if self._predicate is not None or self.forbidden:
            self.sample(np.random.default_rng(0))

    def _nothing(self) -> str:
        if self._count is not None:
            return "the search space has no valid point: its constraints forbid every combination"
        return f"the search space seems to have no valid point: none of {_TRIES} random ones is allowed"

    def encode(self, points: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Places in the unit cube [N, parameters] (see `Parameter.place`); NaN where a parameter is not active."""
        rows = np.full((len(points), len(self.names)), np.nan)
        for row, point in zip(rows, points, strict=True):
            for column, (name, parameter) in enumerate(self.parameters.items()):
                if name in point:
                    row[column] = parameter.place(point[name])
        return rows

    def decode(self, row: Iterable[float]) -> Point:
        """The point at a place of the unit cube; places of parameters that are not active there are passed over."""
        made: Point = {}
        for (name, parameter), place in zip(self.parameters.items(), row, strict=True):
            if self.active(name, made):
                made[name] = parameter.at(place)
        return made


@record
class ModelSpace:
    """Networks to choose from, and what else of a training is chosen with them.

    `mlp`, `conv`: `ModelSpec`s of one to `max_layers` layers (parameter `layers`), each with one of `widths` (`width1`,
    `width2`, …). `package.module:function`: your own networks; the function is called with (input_shape, output_dim)
    and a value of each of `parameters` by name. `tune` names fields of the `Budget`.
    """

    kind: str = option("mlp", help="mlp, conv or package.module:function")
    max_layers: int = option(3, ge=1, help="layers of an mlp or conv")
    widths: tuple[int, ...] = option((16, 32, 64, 128), ge=1, help="widths of a layer of an mlp or conv")
    parameters: dict[str, Parameter] = option(factory=dict, help="what your own function can be called with")
    tune: dict[str, Parameter] = option(factory=dict, help=f"of the budget: {', '.join(TUNABLE)}")
    forbidden: tuple[dict[str, Any], ...] = option((), help="see SearchSpace")
    valid: Any = option(None, help="see SearchSpace")

    def __attrs_post_init__(self) -> None:
        own = ":" in self.kind
        if not own and self.kind not in ("mlp", "conv"):
            raise OptionError(f"ModelSpace: kind must be 'mlp', 'conv' or 'package.module:function', got {self.kind!r}")
        if own != bool(self.parameters):
            raise OptionError(
                f"ModelSpace: parameters say what a function of your own can be called with; kind is {self.kind!r}"
            )
        if not own and not self.widths:
            raise OptionError("ModelSpace: widths must name at least one width")
        for name in self.tune:
            if name not in TUNABLE:
                raise OptionError(f"ModelSpace: tune cannot be {name!r}{nearest(name, TUNABLE)}")
            if name in self.parameters:
                raise OptionError(f"ModelSpace: {name!r} is both in parameters and in tune")

    def __unstructure__(self) -> dict[str, Any]:
        plain = {f.name: unstructure(getattr(self, f.name)) for f in attrs.fields(type(self)) if f.name != "valid"}
        if self.valid is None:
            return plain
        named = f"{self.valid.__module__}:{self.valid.__qualname__}" if callable(self.valid) else self.valid
        return {**plain, "valid": named}

    def space(self, task: TaskDescriptor) -> SearchSpace:
        """The search space for a task: no deeper than its images allow. OptionError if no network fits."""
        parameters = dict(self.parameters)
        if ":" not in self.kind:
            most = self.max_layers
            if self.kind == "conv":
                if len(task.input_shape) != 3:
                    raise OptionError(
                        f"task {task.task_id!r}: 'conv' needs inputs of shape (channels, height, width), "
                        f"got {task.input_shape}"
                    )
                most = min(most, int(math.log2(min(task.input_shape[1:]))))
                if most < 1:
                    raise OptionError(
                        f"task {task.task_id!r}: images of {task.input_shape[1:]} are too small for 'conv'"
                    )
            depths = tuple(range(1, most + 1))
            parameters["layers"] = Parameter(choices=depths)
            for depth in depths:
                when = {"layers": depths[depth - 1 :]} if depth > 1 else {}
                parameters[f"width{depth}"] = Parameter(choices=self.widths, when=when)
        made = SearchSpace(parameters=parameters | self.tune, forbidden=self.forbidden, valid=self.valid)
        made.require_points()
        return made

    def model(self, point: Mapping[str, Any]) -> ModelSpec:
        """The network that a point describes."""
        if ":" in self.kind:
            return ModelSpec(kind=self.kind, arguments={n: v for n, v in point.items() if n not in self.tune})
        widths = tuple(point[f"width{depth + 1}"] for depth in range(point["layers"]))
        return ModelSpec(kind=self.kind, hidden=widths)

    def budget(self, point: Mapping[str, Any], budget: Budget) -> Budget:
        """The budget with what the point says of it."""
        return attrs.evolve(budget, **{name: point[name] for name in self.tune if name in point})


def _hashable(value: Any) -> Any:
    """Lists, which JSON and TOML give, as tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else (value,)
