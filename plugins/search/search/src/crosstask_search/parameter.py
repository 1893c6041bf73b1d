"""One dimension of a search space: choices, or a range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from crosstask.errors import OptionError, nearest
from crosstask.options import build, option, record, structure


def _end(told: str) -> Any:
    """A number as it is: whole ones stay whole, for beyond 2^53 a float would be another number."""

    def read(value: Any, field: attrs.Attribute[Any]) -> Any:
        value = hashable(value)
        exact = value is None or (isinstance(value, int) and not isinstance(value, bool))
        return value if exact else structure(value, float, f"Parameter: {field.name}")

    return attrs.field(default=None, converter=attrs.Converter(read, takes_field=True), metadata={"help": told})


@record
class Parameter:
    """One dimension of a space: `choices`, or the range from `low` to `high` (both may be taken).

    `when` names other parameters and the values of theirs with which this one means something; with others it is left
    out of the point. In TOML a list is short for `choices`. OptionError if it is neither choices nor a range.
    """

    choices: tuple[Any, ...] = option((), help="the values it can take: numbers, strings, true, false, lists of them")
    low: float | None = _end("smallest value of a range")
    high: float | None = _end("largest value of a range")
    log: bool = option(False, help="equal factors of a range count the same, not equal differences")
    integer: bool = option(False, help="only whole numbers of a range")
    when: dict[str, tuple[Any, ...]] = option(factory=dict, help="parameters and their values that make it active")

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "when", {name: tuple(map(hashable, values)) for name, values in self.when.items()})
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise OptionError("Parameter: give either choices or a range (low and high)")
        if self.choices:
            if self.log or self.integer:
                raise OptionError("Parameter: log and integer are for ranges, not for choices")
            object.__setattr__(self, "choices", _choices(self.choices))
        else:
            self._check_range()

    def _check_range(self) -> None:
        if self.low is None or self.high is None:
            raise OptionError("Parameter: a range needs both low and high")
        ends = (self.low, self.high)
        if not all(_finite(end) for end in ends) or self.low > self.high:
            swapped = " (swapped?)" if self.low > self.high else ""
            raise OptionError(f"Parameter: a range needs finite low <= high, got {self.low} and {self.high}{swapped}")
        if self.log and self.low <= 0:
            raise OptionError(f"Parameter: a range on a log scale must be above 0, got low = {self.low}")
        if self.integer and any(end % 1 for end in ends):
            raise OptionError(f"Parameter: the ends of an integer range must be whole, got {self.low} and {self.high}")
        if not self.integer and not math.isfinite(float(self.high) - float(self.low)):
            raise OptionError(f"Parameter: a range must not be wider than floats reach, got {self.low} to {self.high}")
        for name, end in zip(("low", "high"), ends, strict=True):
            object.__setattr__(self, name, int(end) if self.integer else float(end))

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
        return int(high - low) + 1 if self.integer else 1 if low == high else None

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
        """The place of a value in [0, 1], the middle of its part: `at(place(value))` is the value again (of a range of
        more than 2^53 whole numbers, one near it).
        """
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high = self._ends()
        value = math.log(value) if self.log else value
        return (value - low) / (high - low) if high > low else 0.5

    def _range(self) -> tuple[int | float, int | float]:
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
        value = hashable(value)
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


def hashable(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, and lists, arrays and tensors as tuples."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value


def _finite(value: float) -> bool:
    """Also of an integer: as far as 64 bits hold it, which is what stores and Optuna can keep."""
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


def _choices(given: Sequence[Any]) -> tuple[Any, ...]:
    made = tuple(map(hashable, given))
    seen: set[Any] = set()
    for choice in made:
        try:
            again = choice in seen
            seen.add(choice)
        except TypeError:
            raise OptionError(
                f"Parameter: a choice must be a number, a string, true, false or a list of them, got {choice!r}"
            ) from None
        if again:
            raise OptionError(f"Parameter: choices must differ, got {made}: {choice!r} is there already")
        if choice != choice:
            raise OptionError("Parameter: a choice cannot be nan, which equals nothing, itself included")
    return made
