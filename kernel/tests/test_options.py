"""Options: values from keyword arguments, TOML and JSON, converted and checked by the annotations."""

# ruff: noqa: E501 -- messages stand on one line

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosstask.errors import OptionError
from crosstask.options import build, component, describe, option, record, state, structure, unstructure
from crosstask.parts import Choice, Reference, part, reference
from crosstask.points.observer import Observer

if TYPE_CHECKING:
    from somewhere import Unknown


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@record
class Inner:
    size: int = option(1, ge=1, help="how large")


@record
class Everything:
    needed: str
    inner: Inner = attrs.field(factory=Inner)
    inners: tuple[Inner, ...] = ()
    colour: Colour = Colour.RED
    when: datetime.datetime | None = None
    where: Path | None = None
    table: dict[str, float] = attrs.field(factory=dict)
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, str] = (1, "x")
    names: frozenset[str] = frozenset()
    mixed: int | float | None = None
    anything: Any = None


def test_from_toml_like_data_and_back() -> None:
    given_data = {
        "needed": "x", "inner": {"size": 2}, "inners": [{"size": 3}], "colour": "blue", "when": "2026-01-02T03:04:05",
        "where": "a/b", "table": {"x": 1}, "kind": "b", "pair": [2, "y"], "names": ["q", "p"], "mixed": 1,
    }  # fmt: skip
    made = build(Everything, given_data, "it")
    assert made.inner == Inner(size=2)
    assert made.inners == (Inner(size=3),)
    assert (made.colour, made.where, made.pair, made.mixed) == (Colour.BLUE, Path("a/b"), (2, "y"), 1)
    assert made.table == {"x": 1.0}
    assert made.when == datetime.datetime(2026, 1, 2, 3, 4, 5)
    plain = unstructure(made)
    assert plain == given_data | {"names": ["p", "q"], "anything": None}
    assert structure(plain, Everything) == made


WRONG: dict[str, tuple[Any, Any, str]] = {
    "string for a number": ("1", float, "value must be a number, got '1'"),
    "number for a string": (1, str, "value must be a string, got 1"),
    "number for a truth": (1, bool, "value must be true or false, got 1"),
    "something for nothing": (1, type(None), "value must be nothing, got 1"),
    "no member": ("red", Literal["blue"], "value cannot be 'red'; valid: blue"),
    "no colour": ("rod", Colour, "value cannot be 'rod'; did you mean 'red'? Valid: blue, red"),
    "list for a table": ([1], dict[str, int], "value must be a table, got [1]"),
    "wrong item": ({"a": "b"}, dict[str, int], "value['a'] must be an integer, got 'b'"),
    "table for a list": ({"a": 1}, list[int], "value must be a list, got {'a': 1}"),
    "number for a list": (1, tuple[int, ...], "value must be a list, got 1"),
    "too few": ([1], tuple[int, str], "value must be a list of 2, got [1]"),
    "no date": ("yesterday", datetime.datetime, "value must be a date and time in ISO form, got 'yesterday'"),
    "no path": (1, Path, "value must be a Path, got 1"),
    "no table of options": ("x", Inner, "value must be an Inner, or a table of its options (size), got 'x'"),
    "no table of many options": ("x", Everything, "value must be an Everything, or a table of its options (needed, inner, inners, colour, …), got 'x'"),
    "neither": ("x", int | float, "value must be an integer or a number, got 'x'"),
    "not even optional": ("x", int | None, "value must be an integer, got 'x'"),
    "long": ("x" * 200, int, "value must be an integer, got '" + "x" * 76 + "..."),
    "too large": (10**400, float, "value must be a number between -1.8e+308 and 1.8e+308, got 1" + "0" * 76 + "..."),
    "too large to be a number or nothing": ([-(10**400)], list[float | None], "value[0] must be a number between -1.8e+308 and 1.8e+308, got -1" + "0" * 75 + "..."),
    "too large to be shown": (10**5000, str, "value must be a string, got a value of type int that cannot be printed"),
    "too large to be shown in a list": ([10**5000], float, "value must be a number, got a value of type list that cannot be printed"),
    "no component": (3, Choice, "value must be a name, or a table with use = \"name\" and the component's options, got 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    value, kind, expected = WRONG[case]
    with pytest.raises(OptionError) as caught:
        structure(value, kind)
    assert str(caught.value) == expected


def test_right() -> None:
    assert structure(1, Annotated[float, "unit"]) == 1.0
    assert structure(None, None) is None
    assert structure("a", Literal["a"]) == "a"
    assert structure([1, 2], Sequence[int]) == (1, 2)
    assert structure([1, 1], set) == {1}
    assert structure({"a": 1}, Mapping) == {"a": 1}
    assert structure(len, Callable[[str], int]) is len
    assert structure(np.float32(0.5), float) == 0.5
    assert structure(torch.tensor(3), int) == 3
    assert structure(np.array([1, 2]), tuple[int, ...]) == (1, 2)
    assert structure(1.0, int | float) == 1.0
    assert type(structure(1, float | int)) is int
    assert structure({"use": "x", "a": 1}, Choice) == Choice(use="x", options={"a": 1})
    assert structure({"use": "x", "options": {"a": 1}}, Choice) == Choice(use="x", options={"a": 1})
    assert structure("x", Choice | None) == Choice(use="x")
    inner = Inner(size=4)
    assert structure(inner, Inner) is inner


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside)))  # fmt: skip
def test_plain_data_is_left_alone(value: Any) -> None:
    assert unstructure(value) == value


def test_unstructure_makes_json_of_everything() -> None:
    assert unstructure([float("nan"), float("inf"), 1.5]) == [None, None, 1.5]
    assert unstructure({1: {3, 2}, Colour.RED: (Path("a"),)}) == {"1": [2, 3], "red": ["a"]}
    assert unstructure(torch.tensor([1.0, 2.0])) == [1.0, 2.0]
    assert unstructure(np.int64(3)) == 3
    assert unstructure(datetime.datetime(2026, 1, 2)) == "2026-01-02T00:00:00"
    assert unstructure(len) == "builtins.len"


@component
class Thing:
    needed: int = option(help="no default")
    rate: float | None = option(None, gt=0, lt=1, help="how fast")
    rates: tuple[float, ...] = option((0.1,), ge=0, le=1, help="how fast, each")
    kind: str = option("a", choices=("a", "b"), help="which")
    made: list[int] = option(factory=list, ge=0, help="made anew")
    foreign: Unknown = option(None, help="known to type checkers only")
    inner: Inner = attrs.field(default=attrs.Factory(lambda self: Inner(size=self.needed), takes_self=True))
    remembered: dict[str, int] = state(factory=dict)
    last: int | None = state()


def test_component() -> None:
    one, other = Thing(needed=1), Thing(needed=1)
    one.made.append(1)
    one.remembered["x"] = 1
    assert (other.made, other.remembered, other.last) == ([], {}, None)
    assert one != other  # components are compared by identity
    assert one.inner == Inner(size=1)
    assert repr(one).startswith("Thing(needed=1, rate=None, rates=(0.1,)")
    assert Thing(needed=1, foreign=object()).foreign
    with pytest.raises(TypeError):
        Thing(1)  # type: ignore[misc]


BOUNDS = {
    "rate must be > 0 and < 1, got 1.0": {"rate": 1},
    "rates must be >= 0 and <= 1, got (0.5, 1.5)": {"rates": [0.5, 1.5]},
    "kind cannot be 'c'; valid: a, b": {"kind": "c"},
    "made must be >= 0, got [-1]": {"made": [-1]},
    "needed must be an integer, got 'x'": {"needed": "x"},
    f"rate must be a number between -1.8e+308 and 1.8e+308, got 1{'0' * 76}...": {"rate": 10**400},
    f"made must be >= 0, got [-1{'0' * 74}...": {"made": [-(10**400)]},
}


@pytest.mark.parametrize("expected", BOUNDS)
def test_bounds(expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        Thing(**({"needed": 1} | BOUNDS[expected]))
    assert str(caught.value) == f"Thing: {expected}"
    with pytest.raises(OptionError) as caught:
        build(Thing, {"needed": 1} | BOUNDS[expected], "thing 'x'")
    assert str(caught.value) == f"thing 'x': {expected}"


def test_an_integer_of_any_size_is_within_bounds() -> None:
    assert Thing(needed=1, made=[10**400]).made == [10**400]


def test_build_says_what_is_missing_and_unknown() -> None:
    with pytest.raises(OptionError, match=r"^it: missing option 'needed'$"):
        build(Thing, None, "it")
    with pytest.raises(OptionError, match=r"^it: unknown option 'nedeed'; did you mean 'needed'"):
        build(Thing, {"nedeed": 1}, "it")


def test_describe() -> None:
    found = {item.pop("name"): item for item in describe(Thing)}
    assert found["needed"] == {"type": "int", "default": "required", "bounds": "", "help": "no default"}
    assert found["rate"]["bounds"] == "> 0 and < 1"
    assert found["kind"]["bounds"] == "one of a, b"
    assert (found["made"]["default"], found["inner"]["default"]) == ([], "computed")
    assert "remembered" not in found
    assert describe(dict) == []

    @attrs.define
    class Plain:
        number: attrs.Attribute = 1  # type: ignore[assignment, type-arg]

    assert describe(Plain)[0]["type"] == "attrs.Attribute"


def test_describe_of_real_types() -> None:
    made = attrs.make_class("Made", {"size": attrs.field(type=int, default=1)})
    assert describe(made)[0]["type"] == "int"


@component
class Whole:
    first: Any = part("chooser", help="one")
    needed: Any = part("chooser", required=True, help="one that must be given")
    others: tuple[Any, ...] = part("chooser", (), help="more")
    maybe: Any = part("chooser", None, help="one or none")
    model: torch.nn.Module | None = reference(torch.nn.Module, help="a network")
    size: float = reference(float, 1.0, help="how large")


def test_part_options() -> None:
    whole = Whole(first="x", needed="y", others=[{"use": "y", "a": 1}])
    assert whole.first == Choice(use="x")
    assert whole.others == (Choice(use="y", options={"a": 1}),)
    assert whole.maybe is None
    assert Whole(first=Choice(use="x"), needed="y", maybe="z").maybe == Choice(use="z")
    assert Whole(needed="y").first == Choice(use="default")
    with pytest.raises(OptionError, match="Whole: first must be a name, or a table with use"):
        Whole(first=None, needed="y")
    with pytest.raises(OptionError, match=r"Whole: others\[1\] must be a name"):
        Whole(needed="y", others=["x", 3])
    with pytest.raises(OptionError, match="it: missing option 'needed'"):
        build(Whole, {}, "it")


def test_references() -> None:
    whole = Whole(needed="y", model={"from": "search"}, size=3)
    assert whole.model == Reference(stage="search", take="model")
    assert (whole.size, type(whole.size)) == (3.0, float)
    plain = unstructure(whole)
    assert (plain["model"], plain["size"]) == ({"from": "search", "take": "model"}, 3.0)
    assert build(Whole, plain, "it").model == whole.model
    net = torch.nn.Linear(1, 1)
    assert Whole(needed="y", model=net).model is net
    assert Whole(needed="y", model=Reference("a", "b")).model == Reference("a", "b")
    assert unstructure(Whole(needed="y", model=net))["model"] == "torch.nn.modules.linear.Linear"
    with pytest.raises(OptionError, match="it: size must be a number, got 'big'"):
        build(Whole, {"needed": "y", "size": "big"}, "it")


def test_parts_and_references_are_described() -> None:
    found = {item.pop("name"): item for item in describe(Whole)}
    assert found["first"]["bounds"] == found["others"]["bounds"] == "a component of chooser"
    assert (found["first"]["default"], found["needed"]["default"]) == ("default", "required")
    assert (found["others"]["default"], found["maybe"]["default"]) == ([], None)
    assert found["model"]["bounds"] == 'or { from = "stage", take = "name" }'
    assert (found["model"]["default"], found["size"]["default"]) == (None, 1.0)
    assert found["model"]["help"] == "a network"


def test_parts_may_be_objects_of_the_right_point() -> None:
    from crosstask.executors import SerialExecutor

    @component
    class Holder:
        inside: Any = part("executor", help="one")

    serial = SerialExecutor()
    assert Holder(inside=serial).inside is serial
    assert unstructure(Holder(inside=serial)) == {
        "inside": {"use": "crosstask.executors:SerialExecutor", "options": {}}
    }

    @component
    class Wrong:
        inside: Any = part("chooser", help="one")

    with pytest.raises(
        OptionError, match="Wrong: inside must be a component of 'chooser', got executor SerialExecutor"
    ):
        Wrong(inside=serial)


def test_an_option_is_read_under_a_name_that_it_had_before() -> None:
    @component
    class Renamed(Observer):
        """Has an option that was called otherwise."""

        rate: float = option(0.5, ge=0, help="how fast", aliases=("speed",))

    with pytest.warns(FutureWarning, match="observer 'x': option 'speed' is now called 'rate'"):
        assert build(Renamed, {"speed": 2.0}, "observer 'x'").rate == 2.0
    with pytest.raises(OptionError, match="unknown option 'speed'"):
        build(Renamed, {"speed": 2.0, "rate": 1.0}, "observer 'x'")


def test_values_without_a_value_and_lists_without_rows() -> None:
    import torch

    from crosstask.errors import OptionError
    from crosstask.options import structure

    with pytest.raises(OptionError, match="n must be an integer"):
        structure(torch.empty((), device="meta"), int, "n")
    with pytest.raises(OptionError, match="n must be a list"):
        structure(torch.tensor(3), list[int], "n")
