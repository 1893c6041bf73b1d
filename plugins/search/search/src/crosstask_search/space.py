"""What a search may choose from: combinations of parameters, with conditions and constraints."""

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
from crosstask.options import build, option, record, structure, unstructure
from crosstask_search.parameter import Parameter, hashable

Point = dict[str, Any]
"""A value for each active parameter, by name."""

LISTED = 100_000
"""Spaces are listed (counted, searched for a valid point) up to so many points."""

_TRIES = 10_000


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
        """Of the parameters, in their order."""
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
            try:
                found = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise OptionError(f"valid: {self.valid!r} cannot be found: {error}") from None
        predicate: Callable[[Point], Any] | None = found
        return predicate

    def active(self, name: str, point: Mapping[str, Any]) -> bool:
        """Whether a parameter means something beside the values that a point has of those before it."""
        return all(parent in point and point[parent] in values for parent, values in self.parameters[name].when.items())

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Whether a complete point breaks no constraint."""
        for combination in self.forbidden:
            if all(name in point and point[name] in _several(value) for name, value in combination.items()):
                return False
        if self._predicate is None:
            return True
        try:
            return bool(self._predicate(dict(point)))
        except Exception as error:  # the predicate is not ours
            hint = ": a parameter that is not active is not in the point" if isinstance(error, KeyError) else ""
            raise OptionError(f"valid raised {type(error).__name__}: {error} for {dict(point)}{hint}") from error

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


DECADES = 2
"""A short range over this many powers of ten, or more, is on a log scale."""


def space_of(given: SearchSpace | Mapping[str, Any], where: str = "parameter") -> SearchSpace:
    """A search space from short forms, by name of the parameter:

    - a list: choices;
    - a tuple of two numbers: the range between them, of whole numbers if both are; on a log scale if both are positive
      and the higher one is a hundred times the lower one or more. A third element, "log" or "linear", says so itself;
    - a `Parameter`, or a table of its options.

    OptionError says which parameter is wrong, and how.
    """
    if isinstance(given, SearchSpace):
        return given
    if not isinstance(given, Mapping):
        raise OptionError(f"a search space is a SearchSpace or a table of parameters by name, got {given!r}")
    made = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise OptionError(f"the name of a parameter must be a string, got {name!r}")
        made[name] = _parameter(value, f"{where} {name!r}")
    return SearchSpace(parameters=made)


def _parameter(value: Any, where: str) -> Parameter:
    ends: tuple[Any, ...] = hashable(value) if isinstance(value, tuple) else ()
    if len(ends) >= 2 and all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends[:2]):
        low, high, scale = ends[0], ends[1], ends[2:]
        if scale not in ((), ("log",), ("linear",)):
            raise OptionError(
                f"{where}: a range is (low, high), (low, high, 'linear') or (low, high, 'log'), got {value!r}; choices "
                "are a list"
            )
        wide = low > 0 and high / low >= 10**DECADES * (1 - 1e-12)
        log = scale == ("log",) or (not scale and wide)
        whole = isinstance(low, int) and isinstance(high, int)
        return build(Parameter, {"low": low, "high": high, "log": log, "integer": whole}, where)
    if isinstance(value, range | set | frozenset):
        raise OptionError(f"{where}: choices are a list, got {value!r}; list(...) makes one")
    made: Parameter = structure(value, Parameter, where)
    return made


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else (value,)
